"""The decode-mask matrix as numbers."""

from slice_ros.mask import DECODE, Cell, MaskMatrix

MATRIX = MaskMatrix(((Cell("a"), Cell("b", 7)), (Cell("b"),), (Cell("a"), Cell("c", 3))))


def test_rows_come_in_order_of_first_appearance():
    assert MATRIX.rows == ("a", "b", "c")
    assert len(MATRIX) == 3


def test_array_tells_left_out_from_decodes_from_prompt_tokens():
    assert MATRIX.to_array().tolist() == [[DECODE, 0, DECODE], [7, DECODE, 0], [0, 0, 3]]
    assert MATRIX.to_array().dtype == "int32", "as in messages"


def test_array_of_chosen_rows_keeps_their_order_and_leaves_the_others_out():
    assert MATRIX.to_array(["c", "a", "unknown"]).tolist() == [[0, 0, 3], [DECODE, 0, DECODE], [0, 0, 0]]


def test_an_empty_matrix_is_an_empty_array():
    assert MaskMatrix().to_array().shape == (0, 0)

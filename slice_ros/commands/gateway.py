"""Run the OpenAI-compatible door: HTTP requests become goals of a server, with the SLO that their headers name.

It listens on this machine alone, and to others only with --api-key-file. ROS arguments may follow after --ros-args.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

HELP = "serve OpenAI's HTTP interface (needs starlette and uvicorn)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--server", default="/slice_server", help="name of the server node")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8080, help="port to listen on; 0 takes a free one")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="keys that requests must bear, one a line")
    parser.add_argument("--certificate", type=Path, metavar="FILE.pem", help="certificate for HTTPS")
    parser.add_argument("--private-key", type=Path, metavar="FILE.pem", help="the certificate's private key")
    parser.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="further name that requests without a key may be for"
    )
    parser.add_argument("--allow-origin", action="append", default=[], metavar="URL", help="web page that may use it (CORS)")
    parser.add_argument("--max-requests", type=int, default=512, metavar="N", help="requests served at once")
    parser.add_argument("--max-body", type=int, default=2**20, metavar="BYTES", help="size of a request's body")
    parser.add_argument("--timeout", type=float, default=600.0, metavar="S", help="how long an answer may take")
    parser.add_argument("--ros-args", nargs=argparse.REMAINDER, default=[], metavar="...", help="all that follows is for ROS")


def run(arguments: argparse.Namespace) -> int:
    try:
        from slice_ros.gateway.limits import Limits
        from slice_ros.gateway.main import Config, main
    except ImportError as error:
        print(f"slice-ros gateway: {error}; install what it needs with: pip install 'slice_ros[gateway]'", file=sys.stderr)
        return 1
    for name in ("max_requests", "max_body", "timeout"):
        if not getattr(arguments, name) > 0:
            print(f"slice-ros gateway: --{name.replace('_', '-')} is {getattr(arguments, name)}; it must be above 0", file=sys.stderr)
            return 2
    if not 0 <= arguments.port < 2**16:
        print(f"slice-ros gateway: --port is {arguments.port}; it must be 0 (a free one) to 65535", file=sys.stderr)
        return 2
    server = arguments.server if arguments.server.startswith("/") else f"/{arguments.server}"
    limits = Limits(body_bytes=arguments.max_body, requests=arguments.max_requests, request_s=arguments.timeout)
    config = Config(
        server,
        arguments.host,
        arguments.port,
        arguments.api_key_file,
        arguments.certificate,
        arguments.private_key,
        tuple(arguments.allow_host),
        tuple(arguments.allow_origin),
        limits,
    )
    return main(config, ["--ros-args", *arguments.ros_args])

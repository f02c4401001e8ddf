"""Ends with 0 if the server in this container answers, with or without TLS: python docker/health.py PORT."""

import ssl
import sys
from http.client import HTTPConnection, HTTPException, HTTPSConnection

PATIENCE = 4
"""Seconds to wait for an answer."""


def main() -> None:
    port = int(sys.argv[1])
    # The certificate is for the name by which others reach the server.
    anyone = ssl.create_default_context()
    anyone.check_hostname = False
    anyone.verify_mode = ssl.CERT_NONE
    for connection in (
        HTTPConnection("localhost", port, timeout=PATIENCE),
        HTTPSConnection("localhost", port, timeout=PATIENCE, context=anyone),
    ):
        try:
            # This route needs no login.
            connection.request("GET", "/auth/")
            if connection.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            continue
    sys.exit(f"the server doesn't answer on port {port}")


if __name__ == "__main__":
    main()

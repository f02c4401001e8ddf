"""Does one job in a process of its own. Only the server runs this file, see ``lib/server/jobs``."""

from lib.server.jobs.process import main

if __name__ == "__main__":
    main()

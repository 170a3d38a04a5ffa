"""dulwich: every repository in the current folder."""

import os

from dulwich.server import FileSystemBackend, TCPGitServer

server = TCPGitServer(FileSystemBackend(os.getcwd()), "127.0.0.1", 0)

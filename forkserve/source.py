"""Import the user's code from its source, never from a .pyc.

A .pyc is known by the size of its source and the second in which that was written, so of two edits
of one length within a second it keeps the first.
"""

import os
import sys
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from types import CodeType

# What nobody edits while it is served. Ourselves too: a child that needs one module more of ours
# must not compile it.
_KEPT_FOLDERS = (
    os.path.join(os.path.dirname(os.__file__), ""),
    os.path.join(os.path.dirname(__file__), ""),
)
_KEPT_PARTS = ("site-packages", "dist-packages")


class SourceLoader(SourceFileLoader):
    """Compiles the user's modules, and takes all others from their .pyc."""

    def get_code(self, fullname: str) -> CodeType | None:
        """Return a module's code; none is written to a .pyc if it is the user's."""
        path = self.get_filename(fullname)
        if not is_users(path):
            return super().get_code(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def is_users(path: str) -> bool:
    """Whether a file is outside the standard library, what is installed, and forkserve."""
    return not path.startswith(_KEPT_FOLDERS) and not any(
        part in _KEPT_PARTS for part in path.split(os.sep)
    )


_HOOK = FileFinder.path_hook(  # Python's own finder of a folder's modules, but for our loader
    (ExtensionFileLoader, EXTENSION_SUFFIXES),
    (SourceLoader, SOURCE_SUFFIXES),
    (SourcelessFileLoader, BYTECODE_SUFFIXES),
)


def install() -> None:
    """Have SourceLoader load whatever is imported from now on, and look at every folder anew."""
    if _HOOK not in sys.path_hooks:
        sys.path_hooks.insert(0, _HOOK)
    sys.path_importer_cache.clear()

"""The one error a user can cause and mend."""

import lzma
import struct
import zipfile
import zlib


class UserError(ValueError):
    """Bad input: the message names the file or key, what was found, what was expected and what to do."""


# What `zipfile` raises for an archive that is damaged, encrypted or compressed in a way it does not know; besides
# OSError, which may also mean the disk.
UNREADABLE_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, UnicodeDecodeError, struct.error,
)  # fmt: skip

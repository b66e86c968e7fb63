"""Names of users and groups for numeric ids, remembered; empty where the system knows none or has no such ids."""

from __future__ import annotations

import functools


@functools.lru_cache(maxsize=4096)
def user_name(uid: int) -> str:
    """The login name of the user id, "" when unknown."""
    try:
        import pwd

        return pwd.getpwuid(uid).pw_name
    except (ImportError, KeyError, OverflowError):
        return ""


@functools.lru_cache(maxsize=4096)
def group_name(gid: int) -> str:
    """The name of the group id, "" when unknown."""
    try:
        import grp

        return grp.getgrgid(gid).gr_name
    except (ImportError, KeyError, OverflowError):
        return ""

"""Make the repositories of this folder anew with the real restic (as root, for owners and devices).

    python tests/vectors/make.py /path/to/restic restic-0.19.1

A repository made again differs in every byte (keys and times are new); the tests read whatever stands here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PASSWORD = "vector password äöü"
SECOND_PASSWORD = "second"

NAMES = [
    b"plain.txt",
    b"with space",
    b"-dash",
    b'quote"and\\backslash',
    b"new\nline\ttab\rreturn\x07bell\x08back\x0bvt\x0cff\x1besc\x7fdel\x01one",
    b"html <b>&amp;<b>",
    b"latin1 \xe4\xf6\xfc and cut \xe2\x82",
    b"\xff\xfe",
    "üñïçödé 日本語 🎉".encode(),
    "real replacement \ufffd".encode(),
    "nbsp\u00a0 soft\u00ad line\u2028 para\u2029 zwj\u200d private\ue000 tag\U000e0041 bom\ufeff c1\u0085".encode(),
    b"\\x41 not an escape \\u0041",
    b"Z upper",
    b"a" * 255,
]


def make_tree(top: bytes, raw_links: bool) -> None:
    for number, name in enumerate(NAMES):
        with open(os.path.join(top, name), "wb") as file:
            file.write(name * (number % 4))
        os.utime(os.path.join(top, name), ns=(1, 1_700_000_000_000_000_000 + 10**number % 1_000_000_000))
    os.utime(os.path.join(top, b"plain.txt"), ns=(0, -1))
    os.utime(os.path.join(top, b"-dash"), ns=(0, 253_402_300_799_999_999_999))
    os.makedirs(os.path.join(top, b"dir", b"empty"))
    os.makedirs(os.path.join(top, b"d<&>r\n\xff", b"deeper"))
    os.link(os.path.join(top, b"plain.txt"), os.path.join(top, b"dir", b"hard link"))
    os.symlink(b"../plain.txt", os.path.join(top, b"dir", b"link"))
    os.symlink('<b>&\u2028\ufffd\u00a0\n"\\'.encode(), os.path.join(top, b"dir", b"odd link"))
    if raw_links:  # 0.14 loses the bytes of such a target, so it cannot be encoded again
        os.symlink(b"bad \xff<\xe2\x82 and \xef\xbf\xbd \x08", os.path.join(top, b"dir", b"raw link"))
    os.mkfifo(os.path.join(top, b"dir", b"fifo"), 0o600)
    os.mknod(os.path.join(top, b"dir", b"null"), 0o20666, os.makedev(1, 3))
    os.mknod(os.path.join(top, b"dir", b"block"), 0o60600, os.makedev(259, 1_000_000))
    for name, mode in ((b"setuid", 0o4755), (b"setgid", 0o2710), (b"sticky", 0o1777)):
        os.mkdir(os.path.join(top, b"dir", name))
        os.chmod(os.path.join(top, b"dir", name), mode)
    os.chown(os.path.join(top, b"Z upper"), 65534, 4_000_000_000)
    with contextlib.suppress(OSError):  # some file systems have no extended attributes
        os.setxattr(os.path.join(top, b"with space"), "user.note", b"\x00\xffvalue")
        os.setxattr(os.path.join(top, b"with space"), "user.empty", b"")


def main(restic: str, name: str) -> None:
    target = Path(__file__).parent / name
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        top = Path(work) / "tree"
        top.mkdir()
        make_tree(os.fsencode(top), raw_links="0.14" not in name)
        env = os.environ | {"RESTIC_REPOSITORY": str(target), "RESTIC_PASSWORD": PASSWORD, "TZ": "Asia/Kathmandu"}
        env |= {"RESTIC_CACHE_DIR": f"{work}/cache"}

        def run(*arguments: str) -> None:
            subprocess.run([restic, *arguments], env=env, check=True, stdout=subprocess.DEVNULL)

        run("init")
        run("backup", "--host", "älpha <1>", "--tag", "one,two & three", "--exclude", "*.tmp", str(top))
        (top / "added").write_bytes(b"more")
        run("backup", "--host", "älpha <1>", str(top))
        run("backup", "--host", "beta", "--time", "2001-02-03 04:05:06", str(top / "dir"), str(top / "added"))
        run("tag", "--add", "tagged", "--host", "beta")
        (Path(work) / "second").write_text(SECOND_PASSWORD)
        run("key", "add", "--new-password-file", f"{work}/second")
        # A program that is killed leaves its lock.
        child = subprocess.Popen([restic, "backup", "--stdin"], env=env, stdin=subprocess.PIPE, stderr=-3, stdout=-3)
        deadline = time.monotonic() + 20
        while not any((target / "locks").iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        child.send_signal(signal.SIGKILL)
        child.wait()
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_file():
            path.chmod(0o644)
        elif not any(path.iterdir()):  # version control keeps no empty folders
            path.rmdir()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])

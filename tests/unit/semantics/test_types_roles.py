"""What a file is there for in its project."""

from __future__ import annotations

import pytest

from backupiq.semantics.roles import role_of
from backupiq.semantics.types import detect_by_name


@pytest.mark.parametrize(
    ("path", "role"),
    [
        (b"/home/me/shop/tests/test_price.py", "test"),
        (b"/home/me/shop/tests/helpers.py", "test"),
        (b"/home/me/shop/src/price_test.go", "test"),
        (b"/home/me/shop/src/Price.spec.ts", "test"),
        (b"/home/me/shop/src/PriceTest.java", "test"),
        (b"/home/me/shop/conftest.py", "test"),
        (b"/home/me/shop/tests/data.json", "test"),
        (b"/home/me/shop/src/latest.py", ""),
        (b"/home/me/shop/src/contest.py", ""),
        (b"/home/me/shop/src/testing.py", ""),
        (b"/home/me/tests/photo.jpg", ""),
        (b"/home/test/shop/price.py", ""),
        (b"/home/me/shop/README", "documentation"),
        (b"/home/me/shop/README.md", "documentation"),
        (b"/home/me/shop/docs/index.html", "documentation"),
        (b"/home/me/shop/docs/guide.rst", "documentation"),
        (b"/home/me/shop/shop.1", "documentation"),
        (b"/home/me/shop/src/index.html", ""),
        (b"/home/me/documents/letter.docx", ""),
        (b"/home/me/shop/docs/build.py", ""),
        (b"/home/me/shop/config.yaml", "configuration"),
        (b"/home/me/shop/package.json", "configuration"),
        (b"/home/me/shop/Dockerfile", "configuration"),
        (b"/home/me/shop/items.json", ""),
        (b"/home/me/shop/price.py", ""),
        (b"price.py", ""),
        (b"", ""),
    ],
)
def test_a_path_and_a_type_tell_the_role(path: bytes, role: str) -> None:
    assert role_of(path, detect_by_name(path.rpartition(b"/")[2])) == role

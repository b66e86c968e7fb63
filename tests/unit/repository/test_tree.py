"""Trees: byte-exact, in order, with every number and id in its range."""

from __future__ import annotations

import base64
import json
import os
import stat
import sys
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backupiq.errors import TreeError, UnsafePathError
from backupiq.repository.gojson import format_time_ns, quote_name
from backupiq.repository.tree import (
    ZERO_TIME,
    ExtendedAttribute,
    Node,
    check_name,
    decode_tree,
    device_numbers,
    encode_linktarget,
    encode_tree,
    go_mode,
    make_device,
    node_type,
    posix_mode,
)

TIME = "2023-11-14T22:13:20.000000001Z"
ID = "0123456789abcdef" * 4


def node(name: bytes = b"name", **fields: Any) -> Node:
    times = {"mtime": TIME, "atime": TIME, "ctime": TIME}
    return Node(**{"name": quote_name(name), "type": "file", "content": [], **times, **fields})


def tree_json(**fields: Any) -> bytes:
    return json.dumps({"nodes": [{"name": "a", "type": "file", "content": [], **fields}]}).encode()


def test_an_empty_folder_is_written_as_restic_writes_it() -> None:
    assert encode_tree([]) == b'{"nodes":[]}\n'
    assert decode_tree(b'{"nodes":[]}\n') == []


def test_every_field_is_written_in_restics_order() -> None:
    full = node(
        b"<full>",
        mode=0o644,
        uid=1,
        gid=2,
        user="ada",
        group="staff",
        inode=2**64 - 1,
        device_id=4,
        size=5,
        links=6,
        linktarget="a\ufffd",
        linktarget_raw=b"a\xff",
        extended_attributes=[ExtendedAttribute("user.a", b"\x00\xfb\xff"), ExtendedAttribute("user.b", None)],
        generic_attributes={"windows.creation_time": msgspec.Raw(b'"AAA="')},
        device=7,
        content=[ID],
        subtree=ID,
        error="failed",
    )
    assert encode_tree([full]).decode() == (
        '{"nodes":[{"name":"\\u003cfull\\u003e","type":"file","mode":420,'
        f'"mtime":"{TIME}","atime":"{TIME}","ctime":"{TIME}","uid":1,"gid":2,"user":"ada","group":"staff",'
        '"inode":18446744073709551615,"device_id":4,"size":5,"links":6,"linktarget":"a\\ufffd","linktarget_raw":"Yf8=",'
        '"extended_attributes":[{"name":"user.a","value":"APv/"},{"name":"user.b","value":null}],'
        '"generic_attributes":{"windows.creation_time":"AAA="},"device":7,'
        f'"content":["{ID}"],"subtree":"{ID}","error":"failed"}}]}}\n'
    )
    assert decode_tree(encode_tree([full])) == [full]


def test_fields_that_are_empty_are_left_out_but_for_those_restic_always_writes() -> None:
    bare = Node(name="a", type="fifo")
    assert encode_tree([bare]).decode() == (
        f'{{"nodes":[{{"name":"a","type":"fifo","mtime":"{ZERO_TIME}","atime":"{ZERO_TIME}","ctime":"{ZERO_TIME}",'
        '"uid":0,"gid":0,"content":null}]}\n'
    )
    explicit = b'{"nodes":[{"name":"a","type":"fifo","mode":0,"size":0,"user":"","linktarget_raw":"","error":""}]}'
    assert encode_tree(decode_tree(explicit)) == encode_tree([bare])


def test_empty_content_and_no_content_stay_different() -> None:
    empty, none = node(content=[]), node(content=None, type="dir", subtree=ID)
    assert b'"content":[]' in encode_tree([empty])
    assert b'"content":null' in encode_tree([none])
    assert decode_tree(encode_tree([none]))[0].content is None


names = st.binary(min_size=1, max_size=24).filter(lambda raw: b"/" not in raw and b"\0" not in raw)
targets = st.binary(min_size=1, max_size=24)
nodes = st.builds(
    lambda name, target, size, ns, xattr: node(
        name,
        size=size,
        mtime=format_time_ns(ns),
        linktarget=encode_linktarget(target)[0],
        linktarget_raw=encode_linktarget(target)[1],
        extended_attributes=[ExtendedAttribute("user.x", xattr)],
    ),
    names,
    targets,
    st.integers(0, 2**63 - 1),
    st.integers(-(2**63), 2**63),
    st.binary(max_size=10),
)


@given(st.lists(nodes, max_size=6, unique_by=lambda one: one.name))
def test_a_tree_that_was_read_encodes_to_the_same_bytes(found: list[Node]) -> None:
    found.sort(key=Node.raw_name)
    data = encode_tree(found)
    again = decode_tree(data)
    assert again == found
    assert encode_tree(again) == data
    assert [one["name"] for one in json.loads(data)["nodes"]] == [one.name for one in found]


@given(names, names)
def test_names_are_ordered_by_their_bytes_and_never_twice(one: bytes, other: bytes) -> None:
    pair = [node(one), node(other)]
    if one < other:
        assert len(decode_tree(encode_tree(pair))) == 2
    else:
        with pytest.raises(TreeError):
            encode_tree(pair)


def test_order_is_that_of_raw_names_where_quoting_would_change_it() -> None:
    # Quoted, the newline begins with a backslash and would stand behind the letter; U+FFFF sorts before U+1F389.
    encode_tree([node(b"a\nb"), node(b"aXb"), node(b"a\\b"), node(b"a\xff")])
    encode_tree([node("\ufffd".encode()), node("🎉".encode())])
    with pytest.raises(TreeError):
        encode_tree([node(b"aXb"), node(b"a\nb")])


@given(targets)
def test_link_targets_keep_their_bytes_and_are_shown_as_go_shows_them(raw: bytes) -> None:
    text, kept = encode_linktarget(raw)
    link = node(type="symlink", content=None, linktarget=text, linktarget_raw=kept)
    data = encode_tree([link])
    assert decode_tree(data)[0].raw_linktarget() == raw
    written = json.loads(data)["nodes"][0]
    assert len(written["linktarget"]) == len(raw.decode("utf-8", "surrogateescape"))
    assert base64.b64decode(written.get("linktarget_raw", "")) == kept
    valid = raw.decode("utf-8", "ignore").encode() == raw
    assert kept == (b"" if valid else raw)


def test_a_real_replacement_character_and_a_bad_byte_are_written_differently() -> None:
    raw = b"\xef\xbf\xbd<\xff\xe2\x82"
    text, kept = encode_linktarget(raw)
    data = encode_tree([node(type="symlink", content=None, linktarget=text, linktarget_raw=kept)])
    assert b'"linktarget":"\xef\xbf\xbd\\u003c\\ufffd\\ufffd\\ufffd","linktarget_raw":"' in data


def test_keys_that_other_programs_add_are_ignored() -> None:
    (found,) = decode_tree(b'{"x":[1],"nodes":[{"future":{"a":1},"name":"a","type":"file","content":[]}],"y":2}')
    assert found.name == "a"


def test_order_in_a_tree_that_is_read_does_not_matter() -> None:
    assert [one.name for one in decode_tree(b'{"nodes":[{"name":"b","type":"x"},{"name":"a","type":"y"}]}')] == [
        "b",
        "a",
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"{}",
        b'{"nodes":null}',
        b'{"nodes":[null]}',
        b'{"nodes":[{}]}',
        b'{"nodes":[{"name":"a"}]}',
        b'{"nodes":[]}{',
        b'{"x":' + b"[" * 200_000,
        b'{"nodes":[{"name":"\xff","type":"file"}]}',
        b'{"nodes":[{"name":"\\ud800","type":"file"}]}',
        tree_json(name=1),
        tree_json(type=None),
        tree_json(mode=-1),
        tree_json(mode=2**32),
        tree_json(uid=2**32),
        tree_json(gid="0"),
        tree_json(size=2**63),
        tree_json(size=-1),
        tree_json(size=1.0),
        tree_json(links=2**63),
        tree_json(inode=2**64),
        tree_json(device_id=2**64),
        tree_json(device=10**30),
        tree_json(mtime=""),
        tree_json(mtime="2" * 100),
        tree_json(mtime=5),
        tree_json(content=["ab"]),
        tree_json(content=[ID[:63]]),
        tree_json(content=[ID + "0"]),
        tree_json(content=["g" * 64]),
        tree_json(content=[" " * 64]),
        tree_json(content=["é" * 64]),
        tree_json(content=ID),
        tree_json(subtree="../" + ID[3:]),
        tree_json(linktarget_raw="***"),
        tree_json(extended_attributes=[{"name": "a"}]),
        tree_json(generic_attributes=[]),
    ],
)
def test_a_damaged_tree_is_refused(data: bytes) -> None:
    with pytest.raises(TreeError):
        decode_tree(data)


def test_one_bad_name_or_time_does_not_hide_its_siblings() -> None:
    bad, good = decode_tree(
        b'{"nodes":[{"name":"\\\\q","type":"file","mtime":"2023-13-14T22:13:20Z"},{"name":"b","type":"file"}]}'
    )
    assert good.raw_name() == b"b"
    assert good.mtime_ns() == good.atime_ns() == good.ctime_ns() == -62_135_596_800 * 10**9
    for broken in (bad.raw_name, bad.mtime_ns):
        with pytest.raises(TreeError):
            broken()


@pytest.mark.parametrize("name", [b".", b"..", b"/", b"a/b", b"/etc", b"../x", b"a/.."])
def test_a_name_that_leads_elsewhere_is_unsafe(name: bytes) -> None:
    with pytest.raises(UnsafePathError):
        check_name(name)


@pytest.mark.parametrize("name", [b"", b"\0", b"a\0b"])
def test_a_name_that_no_file_can_have_is_damage(name: bytes) -> None:
    with pytest.raises(TreeError):
        check_name(name)


@given(names.filter(lambda raw: raw not in (b".", b"..")))
def test_any_other_name_is_allowed(name: bytes) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("st_mode", "go", "kind"),
    [
        (stat.S_IFREG | 0o644, 420, "file"),
        (stat.S_IFDIR | 0o755, 2_147_484_141, "dir"),
        (stat.S_IFLNK | 0o777, 134_218_239, "symlink"),
        (stat.S_IFBLK | 0o660, 1 << 26 | 0o660, "dev"),
        (stat.S_IFCHR | 0o666, 1 << 26 | 1 << 21 | 0o666, "chardev"),
        (stat.S_IFIFO, 1 << 25, "fifo"),
        (stat.S_IFSOCK | 0o7777, 1 << 24 | 1 << 23 | 1 << 22 | 1 << 20 | 0o777, "socket"),
    ],
)
def test_modes_are_gos(st_mode: int, go: int, kind: str) -> None:
    assert go_mode(st_mode) == go
    assert node_type(st_mode) == kind
    assert posix_mode(go, kind) == st_mode


@given(st.sampled_from([0o01, 0o02, 0o04, 0o06, 0o10, 0o12, 0o14]), st.integers(0, 0o7777))
def test_every_mode_comes_back(kind: int, bits: int) -> None:
    st_mode = kind << 12 | bits
    found = node_type(st_mode)
    assert found is not None
    assert posix_mode(go_mode(st_mode), found) == st_mode


def test_the_type_of_a_node_decides_over_its_mode() -> None:
    assert posix_mode(1 << 31 | 0o755, "file") == stat.S_IFREG | 0o755
    with pytest.raises(TreeError):
        posix_mode(0o644, "irregular")
    assert node_type(0o644) is None


@pytest.mark.skipif(sys.platform != "linux", reason="device numbers are laid out as Linux does")
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_device_numbers_are_laid_out_as_linux_does(major: int, minor: int) -> None:
    device = make_device(major, minor)
    assert device_numbers(device) == (major, minor)
    if major < 2**31 and minor < 2**31:  # Python's own functions take C ints
        assert device == os.makedev(major, minor)
        assert (os.major(device), os.minor(device)) == (major, minor)

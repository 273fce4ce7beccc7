"""Reading text that may be anything; writing that is there whole or not at all."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from advisor import files
from advisor.errors import EXIT_USAGE, AdvisorError, CaseError, combine, did_you_mean, show
from advisor.files import read_stdin, read_text, write_text


def read_error(path: object, max_bytes: int = 1000) -> AdvisorError:
    with pytest.raises(AdvisorError) as caught:
        read_text(path, max_bytes=max_bytes)  # type: ignore[arg-type]
    assert caught.value.exit_code == EXIT_USAGE
    assert "\n" not in caught.value.message
    return caught.value


def write_error(path: object, text: str = "new", *, force: bool = False) -> AdvisorError:
    with pytest.raises(AdvisorError) as caught:
        write_text(path, text, force=force)  # type: ignore[arg-type]
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value


def test_read_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfa\r\n\xc3\xa9\n")
    assert read_text(file, max_bytes=9) == "a\r\né\n"
    file.write_bytes(b"")
    assert read_text(str(file), max_bytes=0) == ""


def test_missing_names_a_near_file(tmp_path: Path) -> None:
    (tmp_path / "support-bot.yaml").touch()
    file = tmp_path / "support-bot.yml"
    assert read_error(file).message == f"{file}: no such file. Did you mean 'support-bot.yaml'?"
    assert read_error("/no/such/file").message == "/no/such/file: no such file."
    assert read_error("").message == "'': no such file."


def test_not_a_file(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.touch()
    (tmp_path / "loop").symlink_to("loop")
    assert read_error(tmp_path).message == f"{tmp_path}: is a folder, not a file."
    assert read_error(file / "b").message.endswith(": a part of the path is a file, not a folder.")
    assert read_error(tmp_path / "loop").message.endswith("leads back to itself.")
    assert read_error("a\0b").message == r"'a\x00b': not a file name."
    assert read_error(tmp_path / ("x" * 300)).message.endswith(
        "the name is too long for this file system."
    )
    assert read_error("\x1b[2J").message == r"'\x1b[2J': no such file."


def test_too_large(tmp_path: Path) -> None:
    file = tmp_path / "big"
    file.write_bytes(b"x" * 1001)
    said = f"{file}: too large: 1,001 bytes; the limit is 1,000 bytes."
    assert read_error(file).message == said
    assert read_text(file, max_bytes=1001) == "x" * 1001
    with open(file, "wb") as stream:
        stream.truncate(10**12)
    assert "1,000,000,000,000 bytes" in read_error(file).message


def test_endless_sources_are_cut_off(tmp_path: Path) -> None:
    assert "more than that; the limit is 1,000 bytes" in read_error("/dev/zero").message
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    written: list[int] = []

    def feed() -> None:
        out = os.open(pipe, os.O_WRONLY)
        try:
            while True:
                written.append(os.write(out, b"x" * 500))
                time.sleep(0.01)
        except BrokenPipeError:
            os.close(out)

    thread = threading.Thread(target=feed)
    thread.start()
    assert "too large" in read_error(pipe).message
    thread.join(timeout=10)
    assert not thread.is_alive()
    assert sum(written) < 5000


@pytest.mark.parametrize(
    ("data", "said", "code"),
    [
        (b"a: b\nc: \xe9\n", "not UTF-8: byte 0xe9 at offset 8 (line 2).", "LATIN1"),
        (b"\xef\xbb\xbfab\xff", "not UTF-8: byte 0xff at offset 5 (line 1).", "LATIN1"),
        ("a: b".encode("utf-16"), "UTF-16 text; only UTF-8 is read.", "UTF-16"),
        (b"\xfe\xff\0a", "UTF-16 text; only UTF-8 is read.", "UTF-16"),
        ("a: b".encode("utf-32"), "UTF-32 text; only UTF-8 is read.", "UTF-32"),
        (b"a\nb\0c", "a NUL byte at offset 3 (line 2); this is not a text file.", ""),
    ],
)
def test_encodings(tmp_path: Path, data: bytes, said: str, code: str) -> None:
    file = tmp_path / "a"
    file.write_bytes(data)
    error = read_error(file)
    assert error.message == f"{file}: {said}"
    assert f"iconv -f {code} " in error.hint if code else not error.hint


def test_standard_input() -> None:
    code = "from advisor.files import read_stdin; print(ascii(read_stdin(max_bytes=5)))"
    done = subprocess.run([sys.executable, "-c", code], input=b"\xc3\xa9\n", capture_output=True)
    assert done.stdout == b"'\\xe9\\n'\n"
    done = subprocess.run([sys.executable, "-c", code], input=b"123456", capture_output=True)
    assert b"<stdin>: too large: more than that" in done.stderr
    done = subprocess.run(["sh", "-c", f'{sys.executable} -c "{code}" <&-'], capture_output=True)
    assert b"<stdin>: standard input is closed." in done.stderr


def test_closed_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(AdvisorError, match="standard input is closed"):
        read_stdin(max_bytes=5)


def test_new_file_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "é\r\n")
    finally:
        os.umask(old)
    assert (tmp_path / "a").read_bytes() == b"\xc3\xa9\r\n"
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["a"]


def test_existing_file_only_with_force_and_keeps_its_mode(tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_text("old")
    file.chmod(0o751)
    error = write_error(file)
    assert str(error) == f"{file}: the file exists already.\n  Add --force to replace it."
    assert file.read_text() == "old"
    write_text(file, "new", force=True)
    assert file.read_text() == "new"
    assert stat.S_IMODE(file.stat().st_mode) == 0o751


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real" / "a", tmp_path / "link"
    link.symlink_to("real/a")
    write_text(link, "one")  # a dangling link: its target is made
    assert target.read_text() == "one"
    assert "exists already" in write_error(link).message
    write_text(link, "two", force=True)
    assert link.is_symlink()
    assert target.read_text() == "two"
    assert os.listdir(tmp_path / "real") == ["a"]
    (tmp_path / "loop").symlink_to("loop")
    assert "leads back to itself" in write_error(tmp_path / "loop", force=True).message
    assert (tmp_path / "loop").is_symlink()


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "f").touch()
    error = write_error(tmp_path / "no" / "a")
    assert error.message == f"{tmp_path}/no/a: the folder {tmp_path}/no does not exist."
    assert error.hint == f"Create it first: mkdir -p {tmp_path}/no"
    assert write_error(tmp_path, force=True).message == f"{tmp_path}: is a folder, not a file."
    assert "not a folder" in write_error(tmp_path / "f" / "a").message
    for name in ("", "a\0b"):
        assert write_error(name).message.endswith("not a file name.")
    assert "cannot be written as UTF-8" in write_error(tmp_path / "a", "\udc80").message
    assert os.listdir(tmp_path) == ["f"]


# These tests never hand a device of /dev to code that might replace it: as root, a bug would break
# the machine. A pipe, or a device node of our own, shows the same.
def test_pipes_are_written_to_and_never_replaced(tmp_path: Path) -> None:
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    thread = threading.Thread(target=lambda: got.append(pipe.read_text()), daemon=True)
    thread.start()
    write_text(pipe, "through", force=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    thread.join(timeout=10)
    assert got == ["through"]


def test_standard_output_by_its_name() -> None:
    code = "from advisor.files import write_text; write_text('/dev/stdout', 'out')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout == b"out"


def test_a_device_that_is_full(tmp_path: Path) -> None:
    device = tmp_path / "full"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        device.open("wb").close()
    except (OSError, AttributeError):
        pytest.skip("needs root and a place for device nodes")
    for force in (False, True):
        said = write_error(device, force=force).message
        assert said == f"{device}: the disk is full; nothing was changed."
        assert stat.S_ISCHR(device.stat().st_mode)


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 64 KiB that is mounted for the test."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.getuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_changes_nothing(small_disk: Path) -> None:
    file = small_disk / "a"
    file.write_text("old")
    said = write_error(file, "x" * 10**6, force=True).message
    assert said == f"{file}: the disk is full; nothing was changed."
    assert "the disk is full" in write_error(small_disk / "b", "x" * 10**6).message
    assert file.read_text() == "old"
    assert os.listdir(small_disk) == ["a"]
    write_text(small_disk / "b", "fits")


def test_a_read_only_disk(small_disk: Path) -> None:
    (small_disk / "a").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "the file system is read-only" in write_error(small_disk / "b").message
    assert write_error(small_disk / "a", force=True)
    assert (small_disk / "a").read_text() == "old"


AS_NOBODY = """
import os, sys
sys.path.insert(0, {root!r})
import advisor.files, advisor.errors, errno
os.setgid(65534); os.setuid(65534)
for call in {calls}:
    try:
        call()
    except advisor.errors.AdvisorError as error:
        print(error.message)
    else:
        print("allowed")
"""


def test_permissions() -> None:
    """Root may do anything, so a child process gives its rights up first."""
    if os.getuid():
        pytest.skip("needs root, to become another user")
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "secret").write_text("old")
        (folder / "secret").chmod(0o600)
        (folder / "open").mkdir(mode=0o777)
        (folder / "open").chmod(0o777)
        (folder / "open" / "read-only").write_text("old")
        (folder / "open" / "read-only").chmod(0o444)
        calls = (
            f"[lambda: advisor.files.read_text('{folder}/secret', max_bytes=9),"
            f" lambda: advisor.files.write_text('{folder}/new', 'x'),"
            f" lambda: advisor.files.write_text('{folder}/open/read-only', 'x', force=True),"
            f" lambda: advisor.files.write_text('{folder}/open/new', 'x')]"
        )
        root = str(Path(files.__file__).parent.parent)
        code = AS_NOBODY.format(root=root, calls=calls)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.stdout.splitlines() == [
            f"{folder}/secret: no permission to read it.",
            f"{folder}/new: no permission to write it.",
            f"{folder}/open/read-only: no permission to write it.",
            "allowed",
        ], done.stderr
        assert (folder / "open" / "read-only").read_text() == "old"


@pytest.mark.parametrize("failing", ["fsync", "link", "replace", "chmod"])
@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), KeyboardInterrupt()])
def test_no_remains_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, error: BaseException
) -> None:
    file = tmp_path / "a"
    force = failing in ("replace", "chmod")
    if force:
        file.write_text("old")

    def fail(*_args: object) -> None:
        raise error

    monkeypatch.setattr(os, failing, fail)
    if failing == "link" and isinstance(error, OSError):
        write_text(file, "new")  # no hard links here: another way is taken
        assert file.read_text() == "new"
    else:
        with pytest.raises((AdvisorError, KeyboardInterrupt)):
            write_text(file, "new", force=force)
        assert [path.read_text() for path in tmp_path.iterdir()] == (["old"] if force else [])
    assert len(os.listdir(tmp_path)) <= 1


@pytest.mark.parametrize("hard_links", [True, False])
def test_race_for_a_name_has_one_winner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hard_links: bool
) -> None:
    def no_links(*_args: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    if not hard_links:
        monkeypatch.setattr(os, "link", no_links)
    barrier = threading.Barrier(8)
    won: list[int] = []
    lost: list[str] = []

    def race(number: int) -> None:
        barrier.wait()
        try:
            write_text(tmp_path / "a", str(number) * 10_000)
            won.append(number)
        except AdvisorError as error:
            lost.append(error.message)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lost == [f"{tmp_path}/a: the file exists already."] * 7
    assert (tmp_path / "a").read_text() == str(won[0]) * 10_000
    assert os.listdir(tmp_path) == ["a"]


def test_file_that_appears_at_the_last_moment_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def sync_and_lose(descriptor: int) -> None:
        real(descriptor)
        (tmp_path / "a").write_text("theirs")

    monkeypatch.setattr(os, "fsync", sync_and_lose)
    assert "exists already" in write_error(tmp_path / "a").message
    assert (tmp_path / "a").read_text() == "theirs"


def test_error_texts() -> None:
    error = CaseError("bad", file="a\nb", line=2, key="k\x1b", hint="do")
    assert str(error) == "'a\\nb':2: 'k\\x1b': bad\n  do"
    assert did_you_mean("Lo-RA", ["lora", "rag"]) == " Did you mean 'lora'?"
    assert len(show("x" * 10**7)) < 62
    with pytest.raises(ValueError, match="nothing"):
        combine([])

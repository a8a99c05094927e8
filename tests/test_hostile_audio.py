"""Audio files made to break their reader: a right answer or a reason, in bounded memory and time."""

from __future__ import annotations

import functools
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import soundfile
from audio_files import riff, tone, write_audio
from conftest import ROOT
from mutants import Hunt, mutant, read_seeds, silent_flac, with_page_sums, write_seeds

from mp3model.audio.decode import MAX_SECONDS, AudioError, decode

MUTANTS = int(os.environ.get("MP3MODEL_MUTANTS", "2000"))
SEED = int(os.environ.get("MP3MODEL_MUTANTS_SEED", "0"))
HOUR = 3600.0


def refusal(source: Path | bytes, **options) -> str:
    with pytest.raises(AudioError) as caught:
        decode(source, **options)
    assert str(caught.value).isprintable()
    return caught.value.reason


def outcome(source: Path | bytes) -> np.ndarray | str:
    """The sound, or why there is none."""
    try:
        return decode(source)
    except AudioError as error:
        return error.reason


def silent_opus(packets: int, granule: int | None = None) -> bytes:
    """An ogg opus of two bytes a packet of 120 ms: six frames that hold nothing.

    Args:
        packets: how many.
        granule: what the last page says was played, in samples at 48 kHz; None is the truth.
    """
    head = b"OpusHead\1\1" + struct.pack("<HIhB", 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 1) + b"x" + struct.pack("<I", 0)
    silence = b"\xfb\x06"  # 20 ms frames, any number of them: six
    pages: list[tuple[bytes, ...]] = [(head,), (tags,)]
    played = 0
    pages += [(silence,) * min(255, packets - done) for done in range(0, packets, 255)]
    content = []
    for number, packed in enumerate(pages):
        last = number == len(pages) - 1
        played += 5_760 * len(packed) if number > 1 else 0
        kind = 2 * (number == 0) | 4 * last
        told = granule if last and granule is not None else played
        body = b"".join(packed)
        page = b"OggS\0" + struct.pack("<BqIIIB", kind, told, 7, number, 0, len(packed))
        content.append(page + bytes(map(len, packed)) + body)
    return with_page_sums(b"".join(content))


def atom(name: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I", 8 + len(content)) + name + content


def m4a_of_tables(entries: int, sizes: int, chunks: int, sound: bytes = bytes(1000)) -> bytes:
    """An m4a of 16-bit samples whose tables claim any number of them, of their sizes and of their places."""
    entry = bytes(6) + b"\0\1" + bytes(8) + struct.pack(">HHHHI", 1, 16, 0, 0, 8_000 << 16)
    table = atom(
        b"stbl",
        atom(b"stsd", bytes(4), struct.pack(">I", 1), atom(b"sowt", entry)),
        atom(b"stts", bytes(4), struct.pack(">III", 1, entries, 1)),
        atom(b"stsc", bytes(4), struct.pack(">IIII", 1, 1, max(1, sizes // max(chunks, 1)), 1)),
        atom(b"stsz", bytes(4), struct.pack(">II", 2, sizes)),
        atom(b"stco", bytes(4), struct.pack(">II", chunks, 900)),
    )
    media = atom(b"mdhd", bytes(12), struct.pack(">II", 8_000, entries), bytes(4))
    media += atom(b"hdlr", bytes(8), b"soun", bytes(13)) + atom(b"minf", atom(b"smhd", bytes(8)), table)
    movie = atom(b"mvhd", bytes(12), struct.pack(">II", 8_000, entries), bytes(80))
    movie += atom(b"trak", atom(b"tkhd", bytes(84)), atom(b"mdia", media))
    return atom(b"ftyp", b"M4A \0\0\0\0M4A mp42") + atom(b"moov", movie) + atom(b"mdat", sound)


@functools.cache
def deflated(megabytes: int) -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(megabytes)) + packer.flush()


def packed_tag(pictures: int, megabytes: int) -> bytes:
    """An ID3v2.4 tag with pictures that are a thousandth of what they unpack to."""
    picture = struct.pack(">I", megabytes * 2**20) + deflated(megabytes)
    frame = b"APIC" + synchsafe(len(picture)) + b"\0\x09" + picture
    return b"ID3\4\0\0" + synchsafe(pictures * len(frame)) + pictures * frame


def synchsafe(number: int) -> bytes:
    return bytes(number >> shift & 0x7F for shift in (21, 14, 7, 0))


def wav_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


# --- Files that last for hours, or say so. ---


def test_ten_hours_that_are_declared_are_refused_before_decoding(tmp_path: Path):
    blocks = round(10 * HOUR * 8_000 / 65_535)
    began = time.process_time()
    assert refusal(silent_flac(8_000, blocks)).startswith("lasts 36003.3 s")
    assert refusal(silent_opus(300_000)).startswith("lasts 36000.0 s")
    path = tmp_path / "long.wav"
    path.write_bytes(riff(np.zeros(0), 8_000, declared_bytes=int(10 * HOUR) * 16_000))
    os.truncate(path, path.stat().st_size + int(10 * HOUR) * 16_000)
    assert refusal(path).startswith("lasts 36000.0 s")
    assert refusal(m4a_of_tables(2**31, 2**31, 1)).startswith("lasts 268435.5 s")
    assert time.process_time() - began < 1.0


def test_ten_hours_that_are_not_declared_are_decoded_no_further_than_the_limit(tmp_path: Path):
    blocks = round(10 * HOUR * 8_000 / 65_535)
    mp3 = b"\xff\xe3\x18\xc4" + bytes(68)  # 72 ms of silence at 8 kHz
    for content, limit in (
        (silent_flac(8_000, blocks, declared=0), 60.0),
        (silent_opus(20_000, granule=48_000), 60.0),
        (mp3 * 500_000, 60.0),
    ):
        began = time.process_time()
        seconds = float(refusal(content, max_seconds=limit).split()[1])
        assert limit < seconds < limit + 20
        assert time.process_time() - began < 2.0


def test_the_longest_sound_that_is_taken_is_taken_whole():
    assert len(decode(silent_flac(8_000, 146, declared=0))) == 2 * 146 * 65_535
    assert MAX_SECONDS == 1200


# --- What unpacks to a thousand times its size, or is a million steps for a reader. ---


def test_what_is_packed_in_a_file_is_never_unpacked(tmp_path: Path):
    mp3 = write_audio(tmp_path / "a.mp3", tone(1.0, 44_100), 44_100).read_bytes()
    aac = write_audio(tmp_path / "a.aac", tone(1.0, 44_100), 44_100).read_bytes()
    aiff = write_audio(tmp_path / "a.aiff", tone(1.0, 44_100), 44_100).read_bytes()
    tag = packed_tag(4, 100)
    strange = wav_chunk(b"fmt ", struct.pack("<HHIIHH", 0x45, 1, 8_000, 4_000, 1, 4))  # a coding that FFmpeg knows
    movie = atom(b"cmov", atom(b"dcom", b"zlib"), atom(b"cmvd", struct.pack(">I", 100 * 2**20), deflated(100)))
    bombs = {
        "begin.mp3": tag + mp3,
        "begin.aac": tag + aac,
        "middle.aac": aac + tag + aac,
        "begin.flac": tag + silent_flac(8_000, 1)[:-10],
        "chunk.wav": b"RIFF\xff\xff\xff\x7fWAVE" + strange + wav_chunk(b"ID3 ", tag) + wav_chunk(b"data", bytes(4_000)),
        "chunk.aiff": aiff[:38].replace(b"AIFF", b"AIFC") + b"ID3 " + struct.pack(">I", len(tag)) + tag + aiff[38:],
        "movie.m4a": atom(b"ftyp", b"M4A \0\0\0\0") + atom(b"moov", movie),
    }
    for name, content in bombs.items():
        assert len(content) < 10**6
        (tmp_path / "bombs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "bombs" / name).write_bytes(content)
    code = """
import json, sys
from pathlib import Path
import av, soundfile, soxr
from mutants import peak_megabytes
from mp3model.audio.decode import AudioError, decode
began, told = peak_megabytes(), {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        told[path.name] = len(decode(path))
    except AudioError as error:
        told[path.name] = error.reason
print(json.dumps([peak_megabytes() - began, told]))
"""
    words = [sys.executable, "-c", code, str(tmp_path / "bombs")]
    done = subprocess.run(words, check=True, capture_output=True, text=True, cwd=ROOT / "tests")
    megabytes, told = json.loads(done.stdout)
    assert set(told) == set(bombs)
    assert told["begin.mp3"] == len(decode(mp3))
    assert told["begin.aac"] == len(decode(aac))
    # One of them, unpacked, is 100.
    assert megabytes < 60, told


def test_tags_and_chunks_without_end_are_not_followed():
    began = time.process_time()
    assert refusal(b"ID3\3\0\0\0\0\0\0" * 1_000_000) == "begins with more than 100 tags"
    for head in (b"RIFF\xff\xff\xff\xffWAVE", b"FORM\xff\xff\xff\xffAIFF"):
        assert refusal(head + b"junk\0\0\0\0" * 1_000_000) == "has more than 10000 chunks before its sound"
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("entries", [500, 2**31, 2**32 - 1])
@pytest.mark.parametrize("sizes", [500, 2**31, 2**32 - 1])
@pytest.mark.parametrize("chunks", [1, 2**28, 2**32 - 1])
def test_tables_of_an_m4a_that_lie_cost_nothing(entries: int, sizes: int, chunks: int):
    began = time.process_time()
    found = outcome(m4a_of_tables(entries, sizes, chunks))
    if isinstance(found, str):
        assert "lasts" in found or "cut short" in found or "cannot be decoded" in found
    else:
        # All that there can be: 500 samples at 8 kHz.
        assert len(found) <= 1_000
    assert time.process_time() - began < 1.0


# --- Unusual and damaged sound. ---


@pytest.mark.parametrize("suffix", [".opus", ".flac"])
def test_seven_and_one_channels_are_averaged(tmp_path: Path, suffix: str):
    path = write_audio(tmp_path / f"a{suffix}", tone(1.0, 48_000, 8), 48_000)
    clip = decode(path)
    assert len(clip) == pytest.approx(16_000, abs=400)
    assert np.abs(clip[4_000:12_000]).max() == pytest.approx(0.5 * 32_768, rel=0.2)


def test_one_sample_is_a_sound(tmp_path: Path):
    for kind in ("WAV", "FLAC", "AIFF"):
        soundfile.write(tmp_path / "one", np.array([12_345], np.int16), 16_000, format=kind)
        assert decode(tmp_path / "one").tolist() == [12_345]
    for suffix in (".mp3", ".ogg", ".m4a"):
        path = write_audio(tmp_path / f"one{suffix}", np.full((1, 1), 0.5, np.float32), 16_000)
        assert 1 <= len(outcome(path)) <= 4_000


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".m4a"])
def test_silence_stays_silent_and_full_scale_stays_loud(tmp_path: Path, suffix: str):
    silence = decode(write_audio(tmp_path / f"silent{suffix}", np.zeros((22_050, 1), np.float32), 44_100))
    assert len(silence) == pytest.approx(8_000, abs=1_300)
    assert np.abs(silence).max() <= 1
    square = np.sign(tone(0.5, 44_100, frequency=441.0)).astype(np.float32)
    loud = decode(write_audio(tmp_path / f"loud{suffix}", square, 44_100))
    assert loud.max() > 32_000
    assert loud.min() < -32_000


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("coding", ["FLOAT", "DOUBLE"])
@pytest.mark.parametrize("values", [(np.inf, -np.inf), (np.nan, 0.0), (3e38, 3e38), (-np.inf, -np.inf)])
def test_samples_without_a_mean_are_refused_without_a_warning(tmp_path: Path, coding: str, values: tuple):
    frames = np.zeros((1_000, 2))
    frames[500] = values
    soundfile.write(tmp_path / "a.wav", frames, 16_000, subtype=coding)
    reason = refusal(tmp_path / "a.wav")
    assert reason == "holds NaN or infinite samples" or "where full scale is 1" in reason


def test_64_bit_integers_are_refused_by_kind():
    wav = bytearray(riff(np.arange(1_000), 16_000))
    wav[32:36] = struct.pack("<HH", 8, 64)
    assert refusal(bytes(wav)) == "has samples of the kind s64, which are not read"


@pytest.mark.parametrize("field", range(20, 36, 2))
@pytest.mark.parametrize("value", [0, 1, 0x7FFF, 0xFFFF])
def test_a_wav_header_that_lies_gives_no_more_than_is_there(field: int, value: int):
    wav = bytearray(riff(np.arange(8_000), 8_000))
    wav[field : field + 2] = struct.pack("<H", value)
    assert 0 < len(outcome(bytes(wav))) <= 16 * 16_000


# --- Mutants. ---


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    return write_seeds(tmp_path_factory.mktemp("hunt") / "seeds")


def test_a_seed_and_a_number_make_the_same_mutant(seeds: Path, tmp_path: Path):
    files, again = read_seeds(seeds), read_seeds(write_seeds(tmp_path / "again"))
    assert files == again
    first = [mutant(files, 0, number) for number in range(50)]
    assert first == [mutant(again, 0, number) for number in range(50)]
    assert first != [mutant(files, 1, number) for number in range(50)]
    # Nearly all of them differ from what they were made of.
    assert sum(content != files[name] for name, content in first) > 40


def test_the_files_that_mutants_are_made_of_are_whole(seeds: Path):
    files = read_seeds(seeds)
    assert {Path(name).suffix for name in files} >= {".mp3", ".m4a", ".ogg", ".opus", ".flac", ".wav", ".aiff", ".aac"}
    for name, content in files.items():
        assert 1_000 < len(decode(content, name=name)) < 40_000


@pytest.mark.slow
@pytest.mark.timeout(60 + MUTANTS / 20)
def test_mutants_give_sound_or_a_reason(seeds: Path, tmp_path_factory):
    hunt = Hunt(seeds, tmp_path_factory.mktemp("hunt") / "kept", SEED)
    hunt.run(0, MUTANTS)
    print(f"\n{MUTANTS} mutants of seed {SEED}\n{hunt.table()}")
    assert not hunt.failures, "\n".join(hunt.failures)
    assert sum(len(tally.seconds) for tally in hunt.kinds.values()) == MUTANTS
    assert all(tally.refused and tally.decoded for tally in hunt.kinds.values())

"""Versions: what is one song, what is another, and what kind of version each track is."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_prep.versions import accepted_pairs, assign_songs, main
from mp3model.files import InputError
from mp3model.tables.folder import TRACK_KINDS
from mp3model.tables.titles import KINDS, parse_title, plain_words


def tracks(*rows: tuple, columns: tuple[str, ...] = ("title", "artist")) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.assign(track_id=[f"t{number}" for number in range(len(frame))])


def one_song(*rows: tuple, **options) -> bool:
    return assign_songs(tracks(*rows), **options)["song_id"].nunique() == 1


SAME = [
    ("Halo", "HALO!"),
    ("Halo", "Halo (feat. Someone)"),
    ("Halo", "Halo [ft. Someone & Other]"),
    ("Halo", "Halo feat. Someone"),
    ("Halo", "Halo - with Someone"),
    ("Halo", "Halo (con Alguien)"),
    ("Halo", "Halo - prod. Maker"),
    ("Halo", "Halo (& Someone)"),
    ("Halo", "Halo - Remastered 2011"),
    ("Halo", "Halo - 2015 Remaster"),
    ("Halo", "Halo - 2015 - Remaster"),
    ("Halo", "Halo - Remasterizado 2007"),
    ("Halo", "Halo (Radio Edit)"),
    ("Halo", "Halo - Single Version / Mono"),
    ("Halo", "Halo (Explicit)"),
    ("Halo", "Halo - Clean Version"),
    ("Halo", "Halo - Bonus Track"),
    ("Halo", "Halo (From “The Film”)"),
    ("Halo", 'Halo - From "The Film: Part 2" Soundtrack'),
    ("Halo", "Halo - Original Motion Picture Soundtrack"),
    ("Halo", "Halo - Japanese ver."),
    ("Halo", "Halo - KR Ver."),
    ("Halo", "Halo (Versión en Español)"),
    ("Halo", "Halo (Spanish Version) [Bonus Track]"),
    ("Café Olé", "cafe  ole"),
    ("Straße", "STRASSE"),
    ("Øl på Åsen", "ol pa asen"),
    ("Ｈａｌｏ", "Halo"),
    ("Don’t Stop", "Dont Stop"),
    ("Rock & Roll Night", "Rock and Roll Night"),
    ("Her Story, Part II", "Her Story (Pt. 2)"),
    ("봄날", "봄날 (feat. 누구)"),
    ("烏托邦", "烏托邦 - 劇集「某劇」主題曲"),
    ("慢慢", "慢慢 (國語版)"),
    ("мелочь", "Мелочь - Из сериала Водоворот"),
    ("Зелёный", "Зеленый"),
    ("Complètement sonné", "Complètemment sonné"),
    ("Lovin You More", "Loving You More"),
    ("Leily Nahary", "Lealy Nahary"),
    ("The Long Night", "Long Night"),
    ("Halo - Remix", "Halo (Official Remix)"),
    ("Halo - Remix", "Halo Remix"),
    ("Halo - Ann Remix", "Halo (Ann Remix) [Radio Edit]"),
    ("Halo - Ao Vivo", "Halo (En Vivo)"),
    ("Halo - Live", "Halo [Live]"),
    ("Halo - Acústico", "Halo (Acoustic Version)"),
]
DIFFERENT = [
    ("Emotions", "Emotions 2.0"),
    ("Pt. 1", "Pt. 2"),
    ("Daily Duppy - Part 1", "Daily Duppy - Part 2"),
    ("Blinded Again, Pt. 1", "Blinded Again, Pt. 2"),
    ("San Junipero I", "San Junipero II"),
    ("Freestyle Session 10", "Freestyle Session 11"),
    ("Wannabe Vol. 2", "Wannabe Vol. 3"),
    ("Sonata, 2nd Movement", "Sonata, 3rd Movement"),
    ("Session Lado A", "Session Lado B"),
    ("Solo", "Solos"),
    ("Bad Love", "Mad Love"),
    ("Go Mana", "Go Manna"),
    ("All of Mana", "All of Manna"),
    ("The Motion", "The Motto"),
    ("Grande Amigo Mio", "Grande Amiga Mio"),
    ("Lover", "Loved"),
    ("Long Live", "Long"),
    ("Live Forever", "Forever"),
    ("Happy (War Is Over)", "Happy (Peace Is Here)"),
    ("?", "!"),
    ("Halo - Remix", "Halo"),
    ("Halo - Ann Remix", "Halo - Ben Remix"),
    ("Halo - Syn Cole Edit", "Halo"),
    ("Halo - Salsa Version", "Halo - Funk Version"),
    ("Halo - Acoustic", "Halo - Remix"),
    ("Halo - Live", "Halo"),
    ("Halo - Live at Home", "Halo - Live in Paris"),
    ("Halo (Sped Up)", "Halo"),
    ("Halo - Slowed", "Halo - Sped Up"),
    ("Halo (Karaoke)", "Halo"),
    ("Halo (Remix) [feat. Cleo]", "Halo (Remix) [feat. Ben]"),
    ("かな", "がな"),
    ("도레", "도미"),
    ("входно ниво", "изходно ниво"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_titles_of_one_song_share_it(one: str, other: str):
    assert one_song((one, "Ann"), (other, "Ann"))


@pytest.mark.parametrize(("one", "other"), DIFFERENT)
def test_titles_of_different_songs_do_not(one: str, other: str):
    assert not one_song((one, "Ann"), (other, "Ann"))


@pytest.mark.parametrize(
    ("title", "kind"),
    [
        ("Halo", "studio"),
        ("Halo (Radio Edit)", "studio"),
        ("Live Your Life", "studio"),
        ("Halo (Live Your Life)", "studio"),
        ("Live", "studio"),
        ("Remix", "studio"),
        ("Halo (Live)", "live"),
        ("Halo - Ao Vivo Em Brasília", "live"),
        ("Halo - En Vivo", "live"),
        ("Halo - MTV Unplugged", "live"),
        ("Halo - Live from Spotify London", "live"),
        ("Halo - Recorded at Spotify Studios NYC", "live"),
        ("残響 (ライブ)", "live"),
        ("Halo - Remix", "remix"),
        ("Halo Remix (Rec. 3) (feat. Ann)", "remix"),
        ("Halo - RMX", "remix"),
        ("Halo - Ann Edit", "remix"),
        ("Halo - Versión Urbana", "remix"),
        ("Halo (Acoustic)", "remix"),
        ("Halo - Live Remix", "remix"),
        ("Halo - Cover", "cover"),
        ("Halo - Operación Triunfo 2018", "cover"),
        ("Halo - Uit Liefde Voor Muziek", "cover"),
        ("Halo - Instrumental", "instrumental"),
        ("Halo (Karaoke Version)", "instrumental"),
        ("残響 (カラオケ)", "instrumental"),
        ("Halo (Sped Up)", "sped-up"),
        ("Halo - Nightcore", "sped-up"),
        ("Halo (Slowed + Reverb)", "sped-up"),
        ("Halo - Ann Remix - Sped Up", "sped-up"),
    ],
)
def test_the_kind_is_read_from_the_title(title: str, kind: str):
    assert parse_title(title).kind == kind


def test_kinds_are_those_that_a_dataset_folder_takes():
    assert set(KINDS) == set(TRACK_KINDS)


def test_merged_kinds_join_the_studio_version_and_others_stay_apart():
    rows = [("Halo", "Ann"), ("Halo - Live", "Ann"), ("Halo - Ben Remix", "Ann"), ("Halo (Karaoke)", "Ann")]
    assert assign_songs(tracks(*rows))["song_id"].nunique() == 4
    live = assign_songs(tracks(*rows), merge=("studio", "live"))["song_id"].tolist()
    assert live[0] == live[1]
    assert len(set(live)) == 3
    assert one_song(*rows, merge=KINDS)


def test_a_cover_by_another_artist_never_joins():
    assert not one_song(("Halo", "Ann"), ("Halo - Cover", "Ben"), merge=KINDS)
    assert not one_song(("Halo", "Ann"), ("Halo", "Ben"), merge=KINDS)


def test_one_isrc_is_one_recording_however_it_is_titled_and_written():
    columns = ("title", "artist", "isrc")
    rows = [("Halo", "Ann", "US-ABC-20-00001"), ("Other Name", "Ben", "usabc2000001"), (None, None, "USABC2000001")]
    songs = assign_songs(tracks(*rows, ("Third", "Cleo", None), ("Fourth", "Cleo", ""), columns=columns))["song_id"]
    assert songs[:3].nunique() == 1
    assert songs.nunique() == 3


def test_an_isrc_joins_everything_that_shares_a_name_with_its_tracks():
    columns = ("title", "artist", "isrc")
    rows = [("Halo", "Ann", None), ("Halo (Remastered)", "Ann", "X1"), ("Glory", "Ann", "X1"), ("Glory", "Ann", None)]
    assert assign_songs(tracks(*rows, columns=columns))["song_id"].nunique() == 1


def test_artists_who_credit_each_other_share_a_song_whoever_comes_first():
    assert one_song(("Halo", "Ann, Ben"), ("Halo", "Ben, Ann"))
    assert one_song(("Halo (feat. Ben)", "Ann"), ("Halo", "Ben, Ann"))
    assert not one_song(("Halo", "Ann, Ben"), ("Halo", "Cleo, Ann"))


def test_tracks_that_nothing_is_known_of_are_songs_of_their_own():
    rows = [(None, "Ann"), ("Halo", None), (None, None), ("Halo", "Various Artists"), ("Halo", "Various Artists")]
    assert assign_songs(tracks(*rows))["song_id"].nunique() == len(rows)


def test_every_intro_of_an_artist_is_another():
    assert not one_song(("Intro", "Ann"), ("Intro", "Ann"))
    assert one_song(("Intro to Halo", "Ann"), ("Intro to Halo", "Ann"))


def test_the_answer_keeps_the_order_and_the_index_of_the_tracks():
    frame = tracks(("B", "Ann"), ("A", "Ann"), ("B", "Ann")).set_index(pd.Index([7, 3, 5]))
    songs = assign_songs(frame)
    assert songs.index.tolist() == [7, 3, 5]
    assert songs.columns.tolist() == ["track_id", "song_id", "kind"]
    assert songs["track_id"].tolist() == frame["track_id"].tolist()


WORDS = st.sampled_from(
    ["halo", "Halo", "night", "nihgt", "The", "2", "- Remix", "(feat. Ben)", "- Live", "(Remaster)"]
)
TITLES = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
NAMES = st.sampled_from(["Ann", "Ben", "Ann, Ben", "Ben, Ann"])


CODES = st.sampled_from([None, None, "X1", "X2"])


@given(st.lists(st.tuples(TITLES, NAMES, CODES), min_size=2, max_size=12), st.randoms(use_true_random=False))
def test_songs_do_not_depend_on_the_order_of_the_rows(rows: list[tuple], random):
    frame = tracks(*rows, columns=("title", "artist", "isrc"))
    order = list(range(len(frame)))
    random.shuffle(order)
    shuffled = assign_songs(frame.iloc[order])
    pd.testing.assert_frame_equal(shuffled.sort_index(), assign_songs(frame))


@given(st.text(max_size=30))
def test_any_text_is_a_title(text: str):
    title = parse_title(text)
    assert title.kind in KINDS
    assert plain_words(" ".join(plain_words(text))) == plain_words(text)


def test_other_scripts_keep_every_letter():
    assert plain_words("가시나 が ไทย हिन्दी") == ["가시나", "が", "ไทย", "हिन्दी"]
    assert plain_words("Ærø Čeština ΆΛΦΑ") == ["aero", "cestina", "αλφα"]


@pytest.mark.parametrize("column", ["track_id", "title", "artist"])
def test_a_missing_column_is_named(column: str):
    with pytest.raises(InputError, match=f"no column '{column}'"):
        assign_songs(tracks(("Halo", "Ann")).drop(columns=column))


def test_a_repeated_track_and_an_unknown_kind_are_refused():
    with pytest.raises(InputError, match="row 1 repeats track_id 't0'"):
        assign_songs(tracks(("Halo", "Ann"), ("Halo", "Ann")).assign(track_id="t0"))
    with pytest.raises(InputError, match="kind 'demo' is not known; merge some of"):
        assign_songs(tracks(("Halo", "Ann")), merge=("demo",))


def test_random_pairs_are_all_pairs_of_one_song_when_enough_are_asked_for():
    frame = tracks(*[("Halo", "Ann")] * 4, *[("Glory", "Ann")] * 3, ("Alone", "Ann"))
    songs = assign_songs(frame)
    pairs = accepted_pairs(frame, songs, 100, seed=0)
    drawn = set(zip(pairs["track_id_a"], pairs["track_id_b"], strict=True))
    assert len(drawn) == len(pairs) == 6 + 3
    assert all(one < other for one, other in drawn)
    assert (pairs["title_a"] == pairs["title_b"]).all()
    again = accepted_pairs(frame.iloc[::-1], songs.iloc[::-1], 4, seed=1)
    pd.testing.assert_frame_equal(again, accepted_pairs(frame, songs, 4, seed=1))


def test_without_pairs_the_draw_is_empty():
    frame = tracks(("Halo", "Ann"), ("Glory", "Ann"))
    assert len(accepted_pairs(frame, assign_songs(frame), 5, seed=0)) == 0


def test_the_command_writes_songs_and_pairs(tmp_path: Path):
    tracks(("Halo", "Ann"), ("Halo - Live", "Ann"), ("Halo!", "Ann")).to_parquet(tmp_path / "tracks.parquet")
    given_paths = [str(tmp_path / "tracks.parquet"), "--out", str(tmp_path / "songs.parquet")]
    main([*given_paths, "--merge", "live", "--pairs", "10"])
    assert pd.read_parquet(tmp_path / "songs.parquet")["song_id"].nunique() == 1
    assert len(pd.read_csv(tmp_path / "songs.pairs.csv")) == 3


def test_the_command_says_in_one_line_what_is_wrong(tmp_path: Path, capsys):
    (tmp_path / "tracks.parquet").write_text("no table")
    with pytest.raises(SystemExit) as caught:
        main([str(tmp_path / "tracks.parquet"), "--out", str(tmp_path / "songs.parquet")])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {tmp_path / 'tracks.parquet'}: cannot be read as parquet")


def test_help_imports_nothing_heavy():
    code = (
        "import sys, data_prep.versions as v\ntry: v.main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('pandas', 'rapidfuzz', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith("[]")


def test_real_titles_are_told_apart_quickly_and_as_the_benchmark_does():
    shared = Path(__file__).resolve().parent.parent.parent / "shared"
    if not (shared / "data" / "charts" / "tracks.parquet").exists():
        pytest.skip("no real charts beside the repository")
    sys.path.insert(0, str(shared / "bench"))
    try:
        import bench
    finally:
        sys.path.pop(0)
    frame = pd.read_parquet(shared / "data" / "charts" / "tracks.parquet")
    start = time.perf_counter()
    songs = assign_songs(frame)
    assert time.perf_counter() - start < 20
    keys = bench.song_table(frame)["song"].to_numpy()

    def pairs(*by: np.ndarray) -> int:
        sizes = pd.DataFrame(dict(enumerate(by))).value_counts().to_numpy()
        return int((sizes * (sizes - 1) // 2).sum())

    both, theirs, ours = pairs(keys, songs["song_id"].to_numpy()), pairs(keys), pairs(songs["song_id"].to_numpy())
    assert both / theirs >= 0.95
    assert both / ours >= 0.95

"""Musical attributes of a song in; 30-second previews of it out, mono int16 at 16 kHz, in tens of milliseconds each.

Every layer of a song is rendered once as a loop of four bars: drums, hats, bass, chords, a lead for the verse and one
for the chorus. Sections mix these loops, and a preview is cut from the sequence of sections.

What a spectrogram must show is placed where it can be seen. Kaldi's 25 ms window does not resolve semitones below about
400 Hz, so each chord is a triad in root position between 590 and 1,660 Hz, whose third tells major from minor;
drum hits stand out of the harmony; levels, instruments, keys and noise differ from song to song and mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from mp3model.audio.bank import SAMPLE_RATE, to_int16

PREVIEW_SECONDS = 30
TEMPO_RANGE = (70.0, 170.0)  # beats a minute
RHYTHMS = ("four-on-the-floor", "backbeat", "syncopated", "half-time", "triplet swing")
VOCALS_CHANCE, BELLS_CHANCE = 0.6, 0.03
STYLE = 0.28  # correlation between the attributes of two songs of one artist
BARS = 4  # length of every loop; one chord a bar

# Semitones of the roots over the key. The same for both modes, so that the bass does not give the mode away; each is
# diatonic in either (I IV V and i iv v), so that every chord has the third of the song's mode.
PROGRESSIONS = ((0, 5, 7, 5), (0, 7, 5, 0), (0, 5, 0, 7), (0, 0, 5, 7))
_SCALE = (0, 2, 5, 7)  # of the lead: no third, so that the chords alone tell the mode
# Steps of a bar (16, or 12 in triplets) with a kick, a snare, a hat. Every rhythm has eight hats, so that what they say
# of the tempo holds for all.
_PATTERNS = {
    "four-on-the-floor": (16, (0, 4, 8, 12), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    "backbeat": (16, (0, 8, 10), (4, 12), (0, 2, 4, 6, 8, 10, 12, 14)),
    "syncopated": (16, (0, 4, 8, 12), (3, 6, 11, 14), (0, 2, 4, 6, 8, 10, 12, 14)),
    "half-time": (16, (0, 7), (8,), (0, 2, 4, 6, 8, 10, 12, 14)),
    "triplet swing": (12, (0, 6), (3, 9), (0, 2, 3, 5, 6, 8, 9, 11)),
}
# Relative strength of the first harmonics; brightness sets how fast they fall off.
_TIMBRES = np.array(
    [
        [1.0, 0.5, 0.25, 0.2, 0.1, 0.1, 0.05, 0.05],  # electric piano
        [1.0, 1.0, 0.3, 0.6, 0.1, 0.3, 0.1, 0.3],  # organ
        [1.0, 0.7, 0.6, 0.5, 0.5, 0.4, 0.4, 0.3],  # strings
        [1.0, 0.1, 0.5, 0.1, 0.35, 0.1, 0.25, 0.1],  # reed
    ]
)
_FORMANTS = np.array([[800, 1150, 2900], [450, 1700, 2600], [350, 2000, 2800], [450, 850, 2800], [330, 700, 2500]])
_TABLE_BITS = 11
_SINES = np.sin(2 * np.pi * np.outer(np.arange(1, 25), np.arange(2**_TABLE_BITS)) / 2**_TABLE_BITS).astype(np.float32)


def draw_attributes(artist: np.ndarray, random: np.random.Generator) -> pd.DataFrame:
    """Draws what a listener could name of each song; songs of one artist resemble each other.

    Args:
        artist: (songs,) number of each song's artist.
        random: the source of all draws.

    Returns:
        a row a song: `tempo` in beats a minute (uniform in octaves), `key` 0-11 from C, `mode` 1 for major, `rhythm`
        and `progression` as positions in RHYTHMS and PROGRESSIONS; `brightness, percussion, contrast, build` uniform
        from 0 to 1; `vocals, sleigh` 0 or 1; `loudness` in dB re full scale.
    """
    count, artists = len(artist), int(artist.max()) + 1

    def uniform() -> np.ndarray:
        """Uniform from 0 to 1 over all songs, correlated within an artist."""
        style, own = random.standard_normal(artists)[artist], random.standard_normal(count)
        return ndtr(np.sqrt(STYLE) * style + np.sqrt(1 - STYLE) * own)

    octaves = np.log2(TEMPO_RANGE)
    favourite = random.integers(0, len(RHYTHMS), artists)[artist]
    rhythm = np.where(random.random(count) < np.sqrt(STYLE), favourite, random.integers(0, len(RHYTHMS), count))
    return pd.DataFrame(
        {
            "tempo": np.exp2(octaves[0] + (octaves[1] - octaves[0]) * uniform()),
            "key": random.integers(0, 12, count),
            "mode": (uniform() < 0.5).astype(int),
            "rhythm": rhythm,
            "progression": random.integers(0, len(PROGRESSIONS), count),
            "brightness": uniform(),
            "percussion": uniform(),
            "contrast": uniform(),
            "build": uniform(),
            "vocals": (uniform() < VOCALS_CHANCE).astype(int),
            "sleigh": (random.random(count) < BELLS_CHANCE).astype(int),
            "loudness": random.uniform(-24, -17, count),
        }
    )


def version_attributes(attributes: Mapping[str, Any], version: str) -> dict[str, Any]:
    """What another version of the song changes: "" (the song itself), live, instrumental, sped up or remaster."""
    changed = dict(attributes)
    if version == "live":
        changed["tempo"] *= 1.03
    elif version == "instrumental":
        changed["lead"] = 0.0
    elif version == "sped up":
        changed["tempo"] *= 1.2
        changed["key"] = (changed["key"] + 3) % 12
    elif version == "remaster":
        changed["brightness"] = min(changed["brightness"] + 0.25, 1.25)
        changed["loudness"] += 3
    elif version:
        raise ValueError(f"version {version!r} is none of live, instrumental, sped up, remaster")
    return changed


def render_previews(
    attributes: Mapping[str, Any],
    version: str,
    count: int,
    arrangement: np.random.Generator,
    take: np.random.Generator,
    seconds: float = PREVIEW_SECONDS,
) -> list[np.ndarray]:
    """Renders previews of one track.

    Args:
        attributes: a row of `draw_attributes`.
        version: see `version_attributes`.
        count: how many previews, from different places of the song.
        arrangement: draws what all versions of a song share: instruments, mix, melody.
        take: draws what is this recording's own: the places of the previews, its noise.
        seconds: length of each.

    Returns:
        `count` int16 arrays (seconds · 16,000,).
    """
    attributes = version_attributes(attributes, version)
    sections = _sections(attributes, _layers(attributes, arrangement), arrangement)
    noise_level = 10 ** (take.uniform(-62, -46) / 20)
    if version == "live":
        sections = {name: _reverberate(loop) for name, loop in sections.items()}
        noise_level = 10 ** (take.uniform(-38, -32) / 20)
    sequence, starts = _sequence(attributes["tempo"])
    length, loop_length = int(seconds * SAMPLE_RATE), len(sections["verse"])
    clips = []
    for start in _places(len(sequence) * loop_length, length, starts * loop_length, count, take):
        first, offset = divmod(int(start), loop_length)
        last = -(-(offset + length) // loop_length)
        clip = np.concatenate([sections[name] for name in sequence[first : first + last]])[offset : offset + length]
        noise = np.resize(_noise(), length + SAMPLE_RATE)[take.integers(SAMPLE_RATE) :][:length]
        clips.append(to_int16(clip + np.float32(noise_level) * noise))
    return clips


def _sequence(tempo: float) -> tuple[list[str], np.ndarray]:
    """Sections in loops of four bars, and which of them begin a chorus or leave one; slow songs have shorter parts."""
    part = 2 if tempo > 100 else 1
    plan = [("intro", 1), ("verse", part), ("chorus", part), ("verse", part), ("chorus", part), ("bridge", 1)]
    plan += [("verse", part), ("chorus", part), ("verse", part), ("chorus", part), ("outro", 1)]
    sequence = [name for name, loops in plan for _ in range(loops)]
    edges = [here for here in range(1, len(sequence)) if {sequence[here - 1], sequence[here]} == {"verse", "chorus"}]
    return sequence, np.array(edges)


def _places(total: int, length: int, edges: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Starts of previews (samples), each around another change between verse and chorus, as published ones are."""
    chosen = random.permutation(edges)[:count]
    starts = chosen - (length * random.uniform(0.25, 0.75, len(chosen))).astype(int)
    return np.clip(starts, 0, max(total - length, 0))


@dataclass(frozen=True)
class _Layers:
    """Loops of four bars at about unit loudness, float32 (samples,)."""

    drums: np.ndarray
    hats: np.ndarray
    bass: np.ndarray
    chords: np.ndarray
    verse_lead: np.ndarray
    chorus_lead: np.ndarray
    bells: np.ndarray | None


def _layers(attributes: Mapping[str, Any], random: np.random.Generator) -> _Layers:
    steps, kicks, snares, hats = _PATTERNS[RHYTHMS[int(attributes["rhythm"])]]
    bar = round(240 / float(attributes["tempo"]) * SAMPLE_RATE)
    bright = float(attributes["brightness"])
    stretch = 110 / float(attributes["tempo"])
    kit = _struck(_kit(int(random.integers(4))), stretch)
    grid = (np.arange(BARS * steps) * bar / steps).astype(int)
    # The same melody and hits whatever the tempo: all are drawn in steps.
    fill = [steps * BARS - 1, steps * BARS - 2, steps * BARS - 4] if random.random() < 0.5 else []
    kick_level, snare_level = 10 ** (random.uniform(-3, 3, 2) / 20) * (1.0, 0.7)
    drums = _hits(
        BARS * bar,
        [
            (kit["kick"], _every_bar(kicks, steps), kick_level),
            (kit["snare"] + bright * kit["snare air"], _every_bar(snares, steps), snare_level),
            (kit["snare"], fill, 0.6 * snare_level),
        ],
        grid,
        random,
    )
    percussion = float(attributes["percussion"])
    off_beat = [step for step in _every_bar(hats, steps) if step % 4 == 2]
    tops = _hits(
        BARS * bar,
        [
            ((0.4 + bright) * kit["hat"], _every_bar(hats, steps), 0.7),
            ((0.4 + bright) * kit["hat"], off_beat if attributes["rhythm"] == 0 else [], 0.5),
            ((0.4 + bright) * kit["shaker"], range(BARS * steps), 0.9 * percussion**1.5),
            (kit["conga"], _every_bar(range(1, steps, 3), steps), 0.9 * percussion),
        ],
        grid,
        random,
    )
    bells = None
    if attributes["sleigh"]:
        eighth = _every_bar(range(0, steps, 2), steps)
        bells = _hits(BARS * bar, [(_bells(), eighth, 0.5)], grid, random)
    key, roots = int(attributes["key"]), PROGRESSIONS[int(attributes["progression"])]
    timbre = _TIMBRES[random.integers(len(_TIMBRES))] * np.arange(1, 9) ** -(2.2 - 2.0 * bright)
    comping = int(random.integers(3))
    strokes = ((0,), tuple(range(0, steps, steps // 4)), kicks)[comping]
    envelope = _strokes(bar, [int(step * bar / steps) for step in strokes], decay=(1.5, 0.35, 0.35)[comping] * stretch)
    third = 4 if attributes["mode"] else 3
    lowest = int(random.integers(71, 83))
    chords = [_chord(lowest + (key + root - lowest) % 12, third, bar, timbre) * envelope for root in roots]
    bass_strokes = _strokes(bar, [int(step * bar / steps) for step in kicks], decay=0.3 * stretch)
    bass_timbre = np.array([1, 0.6, 0.4, 0.25, 0.15, 0.1, 0.05, 0.05])
    bass = [_tone(36 + (key + root) % 12, bar, bass_timbre) * bass_strokes for root in roots]
    sing = bool(attributes["vocals"])
    lead = [_melody(attributes, bar, steps, roots, sing, bright, random) for _ in range(2)]
    return _Layers(drums, tops, np.concatenate(bass), np.concatenate(chords), lead[0], lead[1], bells)


def _sections(attributes: Mapping[str, Any], layers: _Layers, random: np.random.Generator) -> dict[str, np.ndarray]:
    """Mixes the layers into the sections; `contrast` takes the drums, the chords and the level from the verse."""
    drums, hats, bass, chords, lead = (10 ** (random.uniform(-3, 3, 5) / 20)).astype(np.float32)
    lead = lead * np.float32((1.0 if attributes["vocals"] else 0.6) * attributes.get("lead", 1.0))
    hold = np.float32(1 - attributes["contrast"])
    full = chords * 0.9 * layers.chords + bass * 0.9 * layers.bass + hats * layers.hats
    chorus = full + drums * 1.2 * layers.drums + lead * layers.chorus_lead
    verse = (
        chords * 0.9 * (0.45 + 0.55 * hold) * layers.chords
        + bass * 0.9 * layers.bass
        + hats * (0.3 + 0.7 * hold) * layers.hats
        + drums * 1.2 * (0.35 + 0.65 * hold) * layers.drums
        + lead * layers.verse_lead
    )
    bridge = full - hats * layers.hats + lead * layers.verse_lead
    if layers.bells is not None:
        chorus += layers.bells
        verse += layers.bells
    # Equal mean level in dB whatever the contrast, so that the level's mean says nothing of it.
    verse *= np.float32(10 ** (-(2 + 8 * attributes["contrast"]) / 20))
    level = np.sqrt(np.sqrt(np.mean(verse**2) * np.mean(chorus**2)))
    gain = 10 ** (attributes["loudness"] / 20) / level
    gain = np.float32(min(gain, 0.98 / max(np.abs(chorus).max(), np.abs(verse).max())))
    rise = np.linspace(0, 1, len(verse) // BARS, dtype=np.float32) ** 2
    riser = np.float32(0.25 * attributes["build"]) * rise * np.resize(_noise(), len(rise))
    verse[-len(rise) :] += riser
    sections = {"verse": verse, "chorus": chorus, "bridge": bridge}
    sections = {name: gain * loop for name, loop in sections.items()}
    return sections | {"intro": sections["bridge"], "outro": sections["bridge"]}


def _every_bar(steps: Any, per_bar: int) -> list[int]:
    return [bar * per_bar + step for bar in range(BARS) for step in steps]


def _hits(
    length: int, voices: list[tuple[np.ndarray, Any, float]], grid: np.ndarray, random: np.random.Generator
) -> np.ndarray:
    """Adds each voice's sample at its steps; what rings over the end of the loop begins the next."""
    loop = np.zeros(length, np.float32)
    for sample, steps, level in voices:
        strengths = level * random.uniform(0.8, 1.1, len(steps))
        for step, strength in zip(steps, strengths, strict=True):
            start = grid[step]
            fits = min(len(sample), length - start)
            loop[start : start + fits] += np.float32(strength) * sample[:fits]
            loop[: len(sample) - fits] += np.float32(strength) * sample[fits:]
    return loop


def _strokes(length: int, onsets: list[int], decay: float) -> np.ndarray:
    """Envelope of a part struck at `onsets` (samples) that dies away by `decay` (seconds) and starts anew."""
    time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    shape = np.minimum(time / 0.006, 1) * (0.15 + 0.85 * np.exp(-time / np.float32(decay)))
    envelope = np.zeros(length, np.float32)
    for start, stop in zip(onsets, [*onsets[1:], length], strict=True):
        envelope[start:stop] = shape[: stop - start]
    envelope[-80:] *= np.linspace(1, 0, 80, dtype=np.float32)
    return envelope


def _frequency(midi: float) -> float:
    return 440 * 2 ** ((midi - 69) / 12)


def _table(strengths: np.ndarray, frequency: float) -> np.ndarray:
    """One cycle with the given harmonics, as far as they stay below 7.5 kHz; unit RMS."""
    count = max(1, min(len(strengths), int(7500 / frequency)))
    table = strengths[:count].astype(np.float32) @ _SINES[:count]
    return table / np.sqrt(np.mean(table**2))


def _tone(midi: float, length: int, strengths: np.ndarray) -> np.ndarray:
    frequency = _frequency(midi)
    # A 32-bit phase that wraps around by itself; its top bits are the place in the cycle.
    phase = np.arange(length, dtype=np.uint32) * np.uint32(frequency / SAMPLE_RATE * 2**32)
    return _table(strengths, frequency)[phase >> np.uint32(32 - _TABLE_BITS)]


def _chord(low: int, third: int, length: int, timbre: np.ndarray) -> np.ndarray:
    """Triad in root position, `low` its root as a MIDI number."""
    return np.float32(0.4) * np.sum([_tone(midi, length, timbre) for midi in (low, low + third, low + 7)], axis=0)


def _melody(
    attributes: Mapping[str, Any],
    bar: int,
    steps: int,
    roots: tuple[int, ...],
    sing: bool,
    bright: float,
    random: np.random.Generator,
) -> np.ndarray:
    """Four bars of a lead: sung on vowels with vibrato, or played."""
    loop = np.zeros(BARS * bar, np.float32)
    lengths = np.array((2, 3, 4, 4, 6)) if steps == 16 else np.array((2, 3, 3, 6))
    lowest, key = int(random.integers(55, 64)), int(attributes["key"])
    step, place = 0, int(random.integers(6))
    while step < BARS * steps:
        length = min(int(random.choice(lengths)), BARS * steps - step)
        place = int(np.clip(place + random.integers(-2, 3), 0, 5))
        vowel, rest = int(random.integers(len(_FORMANTS))), random.random() < 0.15
        midi = lowest + (key - lowest) % 12 + 12 * (place // 4) + _SCALE[place % 4]
        start, stop = int(step * bar / steps), int((step + length * 0.92) * bar / steps)
        if not rest:
            loop[start:stop] += _note(midi, stop - start, vowel if sing else None, bright)
        step += length
    return loop


def _note(midi: float, length: int, vowel: int | None, bright: float) -> np.ndarray:
    frequency = _frequency(midi)
    time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
    if vowel is None:
        strengths = np.arange(1, 9) ** -(3.0 - 1.2 * bright)
        return 0.5 * _tone(midi, length, strengths) * np.minimum(time / 0.004, 1) * np.exp(-time / 0.3)
    harmonics = frequency * np.arange(1, 25)
    widths = np.array([110, 140, 220])
    resonances = np.exp(-0.5 * ((harmonics[:, None] - _FORMANTS[vowel]) / widths) ** 2) @ np.array([1, 0.6, 0.35])
    table = _table(resonances + 0.15 / np.arange(1, 25), frequency)
    # Vibrato of a third of a semitone at 5.5 Hz, which sets in after the attack.
    bend = 1 + 0.012 * np.sin(2 * np.pi * 5.5 * time) * np.minimum(time / 0.3, 1)
    phase = np.cumsum(bend * np.float32(frequency / SAMPLE_RATE), dtype=np.float64) % 1
    edge = np.minimum(np.minimum(time / 0.03, 1), (time[-1] - time) / 0.04)
    return 0.7 * table[(phase * 2**_TABLE_BITS).astype(np.int32)] * np.clip(edge, 0, 1)


def _reverberate(loop: np.ndarray) -> np.ndarray:
    """A hall of 1.1 seconds; the loop's tail runs into its own beginning."""
    time = np.arange(min(int(1.1 * SAMPLE_RATE), len(loop))) / SAMPLE_RATE
    response = np.resize(_noise(), len(time)) * np.exp(-time / 0.25)
    response *= 0.6 / np.sqrt(np.sum(response**2))
    response[0] += 0.7
    spectrum = np.fft.rfft(loop) * np.fft.rfft(response, len(loop))
    return np.fft.irfft(spectrum, len(loop)).astype(np.float32)


@lru_cache(maxsize=1)
def _noise() -> np.ndarray:
    """Eight seconds of pinkish noise, unit RMS; the same in every process."""
    random = np.random.Generator(np.random.Philox(20))
    white = random.standard_normal(8 * SAMPLE_RATE)
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(np.arange(4 * SAMPLE_RATE + 1), 200))
    noise = np.fft.irfft(spectrum)
    return (noise / noise.std()).astype(np.float32)


@lru_cache(maxsize=8)
def _kit(number: int) -> dict[str, tuple[np.ndarray, float]]:
    """Sounds of one drum kit before they die away, float32, and the decay of each (seconds) at 110 beats a minute."""
    random = np.random.Generator(np.random.Philox(100 + number))
    time = np.arange(int(0.4 * SAMPLE_RATE)) / SAMPLE_RATE

    def hiss(order: int) -> np.ndarray:
        """Noise that rises by 6 dB an octave for each order."""
        high = np.diff(random.standard_normal(len(time) + order), order)
        return high / high.std()

    sweep = np.cumsum(48 + 4 * number + 130 * np.exp(-time / 0.02)) / SAMPLE_RATE
    click = 0.5 * np.exp(-time / 0.004) * hiss(0)
    drum = np.sin(2 * np.pi * (175 + 12 * number) * time)
    skin = np.sin(2 * np.pi * (330 + 40 * number) * (time + 0.002 * (1 - np.exp(-time / 0.02))))
    sounds = {
        "kick": (2.6 * np.sin(2 * np.pi * sweep) + click, 0.07 + 0.01 * number),
        "snare": (0.8 * hiss(1) + drum, 0.04 + 0.008 * number),
        "snare air": (0.8 * hiss(2), 0.04 + 0.008 * number),
        "hat": (0.8 * hiss(3), 0.018 + 0.004 * number),
        "shaker": (0.6 * np.minimum(time / 0.012, 1) * hiss(2), 0.03),
        "conga": (skin, 0.035),
    }
    return {name: (sound.astype(np.float32), decay) for name, (sound, decay) in sounds.items()}


def _struck(kit: dict[str, tuple[np.ndarray, float]], stretch: float) -> dict[str, np.ndarray]:
    """The kit's samples, dying away as fast as the tempo is quick.

    With one decay for all tempos, hits that follow each other quickly would leave less silence, and the mean spectrum
    would tell the tempo.
    """
    samples = {}
    for name, (sound, decay) in kit.items():
        length = min(int(6 * decay * stretch * SAMPLE_RATE), len(sound))
        time = np.arange(length, dtype=np.float32) / SAMPLE_RATE
        samples[name] = sound[:length] * np.exp(time / np.float32(-decay * stretch))
        samples[name][-80:] *= np.linspace(1, 0, 80, dtype=np.float32)
    return samples


@lru_cache(maxsize=1)
def _bells() -> np.ndarray:
    """One shake of sleigh bells: high partials in no key, with a rattle."""
    random = np.random.Generator(np.random.Philox(7))
    time = np.arange(int(0.16 * SAMPLE_RATE)) / SAMPLE_RATE
    partials = random.uniform(3800, 7400, 14)
    ring = np.sin(2 * np.pi * (np.outer(partials, time) + random.random((14, 1)))).sum(0) / 4
    rattle = 0.6 + 0.4 * np.sign(np.sin(2 * np.pi * 31 * time))
    return (ring * rattle * np.minimum(time / 0.004, 1) * np.exp(-time / 0.05)).astype(np.float32)

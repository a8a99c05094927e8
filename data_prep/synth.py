"""stub"""
from __future__ import annotations
import numpy as np, pandas as pd
RHYTHMS = ("four-on-the-floor", "backbeat", "syncopated", "half-time", "triplet swing")
TEMPO_RANGE = (70.0, 170.0)
def draw_attributes(count, random):
    return pd.DataFrame(dict(tempo=np.exp2(random.uniform(*np.log2(TEMPO_RANGE), count)), key=random.integers(0,12,count), mode=random.integers(0,2,count), rhythm=random.integers(0,5,count), progression=random.integers(0,4,count), brightness=random.random(count), percussion=random.random(count), contrast=random.random(count), build=random.random(count), vocals=(random.random(count)<.6).astype(int), sleigh=(random.random(count)<.03).astype(int), loudness=random.uniform(-22,-12,count)))

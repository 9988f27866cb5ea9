"""How far a stack of windows really looks back: an experiment in two halves. Chapter 09 is its lesson.

cliff    one fact, random filler. L layers of window W can know of L (W - 1) tokens back, and of not one more; do they learn to?

    model = cliff.train(n_layers=2, window=16, seed=0)
    recall = cliff.curve(model, range(1, 41))           # {distance: share right}
    cliff.first_forgotten(recall)                       # 31
    cliff.exact_reach(model.config)                     # 30

stories  several facts in one text, which compete: who has what? Told at distance d before the question, n of them alive.

    model = stories.train(n_layers=2, window=16, seed=0)
    found = stories.grid(model, distances=(3, 7, 12), alive=(1, 4))     # {(n, d): Answers(right, told, of)}

records  runs of both, for several depths, windows and seeds, with everything counted:

    record = reach.recorded("cliff")                    # came with the package; made by `minimistral reach cliff`
    reach.picture(record)                               # recall against distance, a line a depth, L (W - 1) and 1.5 W marked
    reach.verdict(record)                               # what was seen, in words, from the raw counts
    model = reach.shipped("cliff-4-layers-window-16")   # trained models; reach.names() lists them
"""

from minimistral.reach.cliff import exact_reach
from minimistral.reach.runs import read, recorded
from minimistral.reach.shipped import names, shipped
from minimistral.reach.show import picture, verdict

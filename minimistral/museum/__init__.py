"""The museum: bugs that real code shipped, small enough to read, each plantable where ours is right.

    museum.BUGS[8]                       what it was, in whose code, what one notices
    museum.card(8), museum.wall()        the same as an exhibit's label; all of them in a table, with tests that catch them
    print(museum.source(8))              the mistake itself, some lines long; told=False: without the words that name it
    with museum.planted(8): ...          our own library, with that mistake, until the block ends
    with museum.planted(12, "closure"):  of several forms of it, this one (museum.BUGS[12].plants names them)
    museum.way(8, probe.at_once)         the same as a way for the probe

Do not read on before chapter 06 if you want to find the broken ending of chapter 00 yourself, and stay out of exam.py until
you have sat the exam of chapter 13.
"""

from minimistral.museum.bugs import BUGS, Bug, planted, source, way
from minimistral.museum.endings import CHUNK, STORY, TwoEndings, WritesFirst, ending, two_endings
from minimistral.museum.exhibits import as_hugging_face
from minimistral.museum.labels import Card, Wall, card, wall

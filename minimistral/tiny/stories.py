"""Short stories for children, told by a small grammar, each with facts that the story needs again later.

A tiny language model can learn these stories in minutes, and they show what a sliding window does: a story
says early on that the key is in the teapot, goes on to other things, and comes back to the key. Every place
where the earlier text decides the next word is kept as a `Recall`, so one can ask the model for that word
and see how far back it remembers.

    >>> tale = story(random.Random(7), distance=40)
    >>> recall = tale.recalls[0]
    >>> tale.text.startswith(recall.prompt + " " + recall.answer)
    True

How it works: a plot (`hidden`, `swap`, `race`, ...) is a plain function that tells its story to a `Teller`.
The teller keeps the text, the facts and the present scene, and fills the time between a fact and its recall
with sights, weather and small talk that suit the scene.
"""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass

# ---- What a story is -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recall:
    """A spot in a story where the earlier text decides the next word."""

    kind: str  # what is asked: "holder", "object", "container", "place", "colour", ...
    prompt: str  # the story up to just before the answer, without a space at its end
    answer: str
    candidates: tuple[str, ...]  # every word the grammar could have put here, the answer among them
    distance: int  # words between the end of the sentence that states the fact and the answer
    fact: str  # the sentence that states the fact
    about: tuple[str, ...]  # the words that belong to the answer: who has it, where it lies


@dataclass(frozen=True)
class Story:
    """A told story; the recall of its main fact comes first in `recalls`."""

    text: str
    recalls: tuple[Recall, ...]


@dataclass(frozen=True)
class Noun:
    """A word that a story can state and recall, with the words that could stand in its place."""

    word: str
    kind: str
    pool: tuple[str, ...]
    adjective: str = ""

    def __str__(self) -> str:
        return self.word

    @property
    def full(self) -> str:
        return f"{self.adjective} {self.word}".strip()

    @property
    def a(self) -> str:
        return article(self.full)


@dataclass(frozen=True)
class Person:
    """A child, a grown-up or an animal with a name."""

    word: str
    he: str  # "he" or "she"
    sort: str  # "boy", "girl", "fox", ...
    pool: tuple[str, ...]
    kind: str = "holder"

    def __str__(self) -> str:
        return self.word

    @property
    def He(self) -> str:
        return self.he.capitalize()

    @property
    def him(self) -> str:
        return {"he": "him", "she": "her"}[self.he]

    @property
    def his(self) -> str:
        return {"he": "his", "she": "her"}[self.he]


def article(phrase: str) -> str:
    """A noun with its a or an."""
    return ("an " if phrase[0] in "aeiou" else "a ") + phrase


def people(text: str) -> tuple[Person, ...]:
    """Read "Mia she girl, Tom he boy"; everyone in one list could stand in for everyone else."""
    rows = [entry.rsplit(" ", 2) for entry in text.split(", ")]
    names = tuple(row[0] for row in rows)
    return tuple(Person(name, he, sort, names) for name, he, sort in rows)


def nouns(kind: str, text: str) -> tuple[tuple[Noun, ...], ...]:
    """Read "key: small rusty, shell: pink" as one tuple per noun, holding the noun with each adjective."""
    rows = [entry.partition(": ") for entry in text.replace("\n", " ").split(", ")]
    words = tuple(row[0].strip() for row in rows)
    return tuple(tuple(Noun(word, kind, words, adjective) for adjective in row[2].split() or [""])
                 for word, row in zip(words, rows, strict=True))


# ---- Who and what there is -------------------------------------------------------------------------------

CHILDREN = people(
    "Anna she girl, Mia she girl, Lily she girl, Rosa she girl, Ella she girl, Nora she girl, "
    "Clara she girl, Ivy she girl, Ruby she girl, Emma she girl, Lucy she girl, Hana she girl, "
    "Tom he boy, Ben he boy, Leo he boy, Max he boy, Sam he boy, Finn he boy, "
    "Oscar he boy, Hugo he boy, Jack he boy, Noah he boy, Theo he boy, Paul he boy")
ANIMALS = people(
    "Rusty he fox, Hetty she hen, Bruno he badger, Tilly she squirrel, Otto he otter, Dora she duck, "
    "Clover she rabbit, Morris he mole, Greta she goose, Pip he mouse, Bella she beaver, Hector he hedgehog")
ELDERS = people("Grandma she woman, Grandpa he man, Aunt Rose she woman, Uncle Peter he man, "
                "Aunt Flora she woman, Uncle Henry he man")
WISE_ANIMALS = people("Old Owl he owl, Mother Bear she bear, Grandfather Toad he toad")

KEEPSAKES = nouns("object", """key: small silver rusty, ring: golden thin, coin: shiny copper old,
    marble: green glass, button: round wooden, shell: pink white, whistle: tin wooden, bell: little brass,
    thimble: silver tiny, feather: blue long, pebble: smooth striped, bead: yellow glass,
    star: paper straw, ribbon: velvet red, medal: golden round, pencil: short red""")
CONTAINERS = nouns("container", """teapot: blue old white, boot: old brown, basket: round big,
    jar: empty tall, drawer: top long, box: wooden green, jug: white chipped, kettle: old black,
    vase: tall blue, chest: heavy wooden, bucket: empty red, tin: square yellow, sack: empty brown,
    cupboard: narrow tall, bowl: deep blue, barrel: empty old""")
BELONGINGS = nouns("object", """hat: big blue, book: thick red, bag: green brown, flute: wooden,
    ball: red, basket: round, bucket: yellow, umbrella: big black, spade: little, blanket: striped,
    cup: tin, net: long""")
BEDS = nouns("container", """basket: round, box: wooden, drawer: bottom, barrel: empty, cradle: old,
    wheelbarrow: rusty, bucket: big, armchair: soft, cupboard: warm, suitcase: open, trunk: old,
    crate: wooden""")
TOYS = nouns("object", """drum: red little, kite: big yellow, doll: wooden rag, ball: striped blue,
    book: thick, flute: wooden silver, puzzle: new, paintbox: small, train: tin green, horse: wooden white,
    trumpet: shiny brass, hoop: wooden, top: painted""")
TOY_PLAY = {  # what one does with the new toy
    "drum": "beat it as hard as a soldier", "kite": "ran off at once to look for some wind",
    "doll": "rocked it and gave it a name", "ball": "threw it high and caught it again",
    "book": "read the first page aloud", "flute": "blew one long, clear note",
    "puzzle": "put the first two pieces together", "paintbox": "painted a small sun on the paper",
    "train": "pulled it along by its string", "horse": "made it gallop along the wall",
    "trumpet": "blew it until the windows shook", "hoop": "rolled it down the path",
    "top": "made it spin and dance"}
SNACKS = nouns("object", """plum: sweet ripe, pear: ripe yellow, apple: red crisp, peach: soft juicy,
    bun: warm sticky, cookie: round ginger, carrot: crunchy sweet, muffin: warm, sandwich: thick,
    fig: soft sweet, banana: ripe, waffle: crisp, pancake: thin""")
FRUITS = nouns("taste", """cherries, strawberries, raisins, nuts, plums, blueberries, almonds, raspberries,
    apples, pears""")
GROCERIES = nouns("object", """honey, cheese, bread, butter, milk, flour, rice, sugar, jam, tea, salt, fish,
    pepper""")
STORES = nouns("object", "nuts, acorns, berries, seeds, roots, apples, mushrooms, carrots, turnips, pears")
TOOLS = nouns("object", """hammer: heavy, rope: long, saw: little, brush: broad, nail: thick, board: thin,
    hook: iron, strap: leather, peg: wooden, screw: brass, spring: steel, chain: rusty""")
PLANTS = nouns("plant", """bean, pea, sunflower, daisy, poppy, pumpkin, marigold, tomato, carrot, radish,
    cucumber, melon""")
COLOURS = nouns("colour", "red, blue, green, yellow, white, brown, black, orange, purple, grey, pink")
TREES = nouns("place", """oak: old tall, pine: tall crooked, willow: old, birch: white young, elm: tall,
    beech: big, maple: young, chestnut: old, fir: dark, poplar: tall""")
SPOTS = nouns("place", """barn, well, hedge, wall, cart, shed, haystack, woodpile, stable, gate, plough,
    trough""")
NEIGHBOURS = nouns("receiver", """miller, baker, shepherd, gardener, teacher, postman, tailor, weaver,
    cobbler, beekeeper, doctor, painter""")
GOODS = nouns("object", """letter: long, parcel: flat, basket: round, jug: full, pie: warm, loaf: fresh,
    book: thin, lamp: clean, blanket: woollen, bottle: green""")
PET_NAMES = nouns("name", "Patch, Pepper, Socks, Ginger, Smoky, Pickle, Snowball, Fluff, Whiskers, Tiger")

# A place: how one is there ("at", "in", "on"), then what one sees there.
SIGHTS = {
    "river": ("at", "{N} ducks swam past in a row.", "A boat with a patched sail went by.",
              "Smooth stones shone under the water.", "A fisherman waved from the far bank.",
              "The water gurgled around a fallen branch."),
    "pond": ("at", "A frog jumped in with a splash.", "{N} swans glided by without a sound.",
             "Little fish darted about between the reeds.", "The water was as still as a mirror."),
    "hill": ("on", "The path was steep, and {they} went slowly.",
             "From the top {they} saw the whole village.", "{N} sheep looked up and went on chewing.",
             "A hawk drew wide circles in the sky."),
    "forest": ("in", "A woodpecker knocked on a hollow tree.", "The air smelled of moss and wet bark.",
               "A deer stood still, and then it was gone.", "Something small rustled in the ferns.",
               "An owl blinked down from a branch."),
    "meadow": ("in", "Brown cows lay together in the grass.", "Bees hummed from flower to flower.",
               "A hare sat up and twitched its ears.", "A stork walked about on its long red legs."),
    "garden": ("in", "A blackbird pulled a worm out of the ground.", "A snail crept over the cabbage leaves.",
               "The old scarecrow wore a torn jacket.", "{N} sparrows quarrelled over a crust."),
    "farm": ("at", "A rooster crowed from the roof.", "{N} fat pigs grunted behind a fence.",
             "A goat tried to eat a newspaper.", "The farmer led his horse to the water."),
    "mill": ("at", "The great wheel turned and creaked.", "White dust hung in the doorway.",
             "A donkey waited with a load on its back.", "Pigeons pecked at the fallen grain."),
    "market": ("at", "A woman sold onions and garlic.", "Somebody played a merry tune on a fiddle.",
               "A man shouted that his potatoes were the best.", "People pushed past with heavy bags."),
    "park": ("in", "Children queued up for the swing.", "An old man fed the pigeons.",
             "{N} boys chased each other around a fountain.", "A lady went by with a tiny dog."),
    "beach": ("on", "Gulls cried over the waves.", "A crab ran sideways under a rock.",
              "The waves left white foam on the sand.", "Far out, a ship crept along."),
    "harbour": ("at", "Nets hung over the wall to be mended.", "{N} boats rocked side by side.",
                "A sailor sang and scrubbed the deck.", "It smelled of tar and seaweed."),
    "orchard": ("in", "A ladder leaned against a tree.", "A thrush sang from the highest twig.",
                "Old trees stood in crooked rows.", "A hedgehog shuffled along the fence."),
    "bridge": ("on", "The stream rushed through the arch below.", "A wagon rattled over the planks.",
               "{They} dropped a stick and watched it float away.",
               "A grey heron stood in the shallow water."),
    "station": ("at", "A train puffed in and stopped.", "The porter blew into his cold fingers.",
                "A family climbed out with {n} suitcases.", "The signal went up with a clank."),
    "church": ("at", "The bell in the tower rang the hour.", "Jackdaws flew around the steeple.",
               "A man was sweeping the steps.", "Ivy climbed up the grey stones."),
}
WILD = ("river", "pond", "hill", "forest", "meadow", "orchard", "bridge", "beach")  # where animals go
PLACES = nouns("place", ", ".join(SIGHTS))

AT_HOME = (
    "The clock ticked on the wall.", "A pot of soup bubbled on the stove.", "The fire crackled in the stove.",
    "The cat curled up on a chair.", "A spider ran across the ceiling.", "Somewhere a door banged.",
    "It smelled of soup and clean floors.", "The stairs creaked all by themselves.",
    "{x} looked out of the window.", "{x} swept some crumbs off the table.",
    "{x} drew a tiny elephant on a scrap of paper.", "{x} built a tower out of spoons.",
    "{x} and {y} played a game with dice.", "{x} pulled a funny face, and {y} giggled.",
    "{x} told {y} a story about a giant.", "{x} warmed up some milk for them both.",
)
OUTDOORS = (
    "{x} hummed a little tune.", "{x} whistled like a bird.", "{x} stopped to tie {his} shoe.",
    "{x} found a stick and used it as a sword.", "{x} threw a stone as far as {he} could.",
    "{x} and {y} sang a song about the moon.", "{x} and {y} sat down for a short rest.",
    "{x} made up a rhyme about a lazy goat.", "{x} followed a beetle with {his} eyes.",
    "A crow called from far away.", "{N} small birds flew up from a bush.", "{x} jumped over a puddle.",
)
TALK = (
    '"Did you hear that?" asked {x}. "It was only the wind," said {y}.',
    '"What is your favourite day?" asked {x}. "Sunday, of course," said {y}.',
    '"I wish I could fly," said {x}. "You would be scared," said {y}.',
    '"How many stars are there?" asked {x}. "More than a hundred," said {y}.',
    '"I know a riddle," said {x}. {y} guessed three times and gave up.',
    '"I can count up to a thousand," said {x}. "Please do not," said {y}.',
    '"Listen to my stomach," said {x}. It growled, and {y} laughed.',
    '"Do fish ever sleep?" asked {x}. "I think so," said {y}.',
    '"This is fun," said {x}.', '"I am glad you are here," said {x}.', '"Tell me a secret," said {x}.',
)
ON_THE_WAY = (
    "{x} walked backwards for a while.", "{x} hopped on one leg up to the next bend.",
    "The path went around a bend.", "A snail could have gone faster.",
    '"Are you tired?" asked {x}. "Not a bit," said {y}.',
    '"My legs are getting heavy," said {x}. "Mine too," said {y}.',
    '"Is it far now?" asked {x}. "Only a little way," said {y}.',
    "{x} and {y} raced to the corner, and {y} won.",
)
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight")

# season -> weather -> (a sentence to open with, ...), then what one notices of it outdoors.
WEATHER = {
    "spring": {
        "sunny": (("The sun had come back after the long winter.", "The first warm days had come at last."),
                  "The sun felt warm on {their} faces.", "Small white clouds sailed over the sky.",
                  "New leaves shone on every branch.", "It smelled of earth and young grass."),
        "rainy": (("It had rained all week, and it was raining still.", "A soft rain was falling."),
                  "The rain dripped from every leaf.", "Raindrops made rings in the puddles.",
                  "Soon {they} had wet feet.", "Low grey clouds hung over the roofs.")},
    "summer": {
        "hot": (("It had not rained for weeks.", "Even the bees were too hot to work."),
                "The air shook with the heat.", "{They} kept to the shade where {they} could.",
                "Crickets sang in the dry grass.", "A lizard dozed on a warm stone."),
        "bright": (("The sky was blue from end to end.", "The days were long and light."),
                   "A warm breeze stirred the leaves.", "Swallows flew high in the blue sky.",
                   "Butterflies danced over the path.", "The sun stood high over the roofs.")},
    "autumn": {
        "windy": (("The wind blew the last leaves off the trees.", "The wind sang in the chimneys."),
                  "The wind pushed {them} along.", "Red leaves whirled through the air.",
                  "Dark clouds raced across the sky.", "Even the tall trees bent and groaned."),
        "misty": (("A white mist lay over the fields.", "The mist hid everything but the steeple."),
                  "The mist made everything soft and quiet.", "Drops hung on every cobweb.",
                  "Wild geese called high above the mist.", "The damp leaves did not even rustle.")},
    "winter": {
        "snowy": (("Snow lay deep on every roof.", "It had snowed the whole night."),
                  "The snow creaked at every step.", "A few white flakes fell.",
                  "Snow slid from a branch with a soft thump.", "Bird tracks ran this way and that."),
        "frosty": (("There was ice on all the puddles.", "Frost sparkled on the ground."),
                   "Every twig was white with frost.", "{Their} breath made little clouds.",
                   "The ground was as hard as iron.", "A thin ray of light came through the clouds.")},
}
# Sights that do not go with a season, a weather or a cast of animals: a line with one of these is not told.
UNFIT = {
    "winter": "flower bee frog snail grass leaves beetle stork lizard water hedgehog thrush goat puddle cows "
              "swans fish worm stream hare sand moss ferns".split(),
    "summer": ["fire", "cold", "warmed"], "spring": ["cold"], "hot": ["puddle", "moss", "warm", "worm"],
    "bright": ["puddle", "moss"], "autumn": ["bee", "stork", "cold"], "rainy": "sun dust mirror sky".split(),
    "misty": "mirror sky far top hawk bee".split(), "frosty": ["puddle"], "snowy": ["dust"],
    "animals": "shoe cat newspaper faces elephant whistled duck geese hedgehog owl".split(),
}


# ---- The teller ------------------------------------------------------------------------------------------


class Teller:
    """Keeps one story as it grows: its text, what it has stated so far, and the scene."""

    def __init__(self, rng: random.Random, distance: int | None):
        self.rng = rng
        if distance is None:  # mostly well inside a window of 64 tokens, now and then at its edge
            distance = rng.randint(8, 35) if rng.random() < 0.9 else rng.randint(36, 55)
        self.distance = distance
        self.text = ""
        self.known: dict[str, tuple[Noun | Person, int, str]] = {}  # word -> what, where stated, how
        self.recalls: list[Recall] = []
        self.together: list[tuple[str, ...]] = []  # the words that belong together: who, what, where
        self.season = rng.choice(list(WEATHER))
        self.weather = rng.choice(list(WEATHER[self.season]))
        self.scene: str | None = None  # the place, or None for indoors
        self.walking = False  # away on a walk, to come back later
        self.here: list[Person] = []  # who is there to see and to talk
        self.told: set[str] = set()  # filler already used

    # Choosing.

    def pick(self, options):
        return self.rng.choice(options)

    def two(self, rows) -> list[Noun]:
        """Two different nouns of a list, with different adjectives where they have any."""
        first, second = (self.pick(row) for row in self.rng.sample(rows, 2))
        alike = first.adjective and first.adjective == second.adjective
        return self.two(rows) if alike else [first, second]

    def shuffled(self, *items: tuple[Noun | Person | str, ...]) -> list:
        """Groups of words that belong together, in a random order."""
        self.together += [tuple(map(str, group)) for group in items]
        return self.rng.sample(items, len(items))

    def cast(self, number: int = 2, animals: bool = True) -> list[Person]:
        """Draw who the story is about."""
        group = ANIMALS if animals and self.rng.random() < 0.3 else CHILDREN
        chosen = self.rng.sample(group, number)
        self.here = chosen[:2]
        return chosen

    def elder(self) -> Person:
        return self.pick(WISE_ANIMALS if self.animals else ELDERS)

    @property
    def animals(self) -> bool:
        return self.here[0] in ANIMALS

    def places(self, number: int = 2) -> list[Noun]:
        names = WILD if self.animals else tuple(SIGHTS)
        rows = [row for row in PLACES if row[0].word in names]
        return [self.pick(row) for row in self.rng.sample(rows, number)]

    # Telling.

    def say(self, *options: str, know: tuple[Noun | Person, ...] = ()) -> None:
        """Tell one of the options. `know` are the facts its last sentence states; [word] recalls one."""
        self.text += " " if self.text else ""
        for part in re.split(r"(\[.+?\])", self.pick(options)):
            if part.startswith("["):
                part = part[1:-1]
                self._recall(part)  # before the answer is told
            self.text += part
        for what in know:
            self.known[str(what)] = (what, len(self.text), sentences(self.text)[-1])

    def _recall(self, word: str) -> None:
        what, stated, fact = self.known[word]
        distance = len(self.text[stated:].split())
        about = tuple(other for group in self.together if word in group for other in group if other != word)
        self.recalls.append(Recall(what.kind, self.text.rstrip(), word, what.pool, distance, fact, about))

    def later(self, *options: str, walk: str = "Then {they}", beats: tuple[str, ...] = ()) -> None:
        """Let the asked number of words pass, and tell one of the options, which recalls the main fact.

        `beats` are told on the way where there is room for them, and `walk` opens the sentence in which the
        two go away for a while.
        """
        line = self.pick(options)
        before, word = re.findall(r"([^\[]*)\[(.+?)\]", line)[0]
        stated = self.known[word][1]

        def left() -> int:
            return self.distance - len(before.split()) - len(self.text[stated:].split())

        for beat in beats:
            if len(beat.split()) <= left() + 3:
                self.say(beat)
        self._wander(left, walk, word)
        self._fill(left)
        self.say(line)

    def _wander(self, left, walk: str, answer: str) -> None:
        """Walk from place to place while there is time, and come back."""
        start, (they, them) = self.scene, self._they()
        names = [place.word for place in self.places(8) if place.word not in (start, answer)]
        way = f"back to the {start}" if start else "home again"
        back = self.pick([f"After a while {they} came {way}.", f"Soon {they} ran {way}."])
        hop = f"{walk} {self.pick(['walked', 'ran', 'wandered'])} to the {{place}}."
        self.walking = True
        while names and left() >= len((hop + back).split()) + 5:  # there, something to see, and back
            self.scene = names.pop()
            self.say(hop.format(they=they, them=them, place=self.scene))
            stay = max(left() - self.rng.randint(12, 36), len(back.split()))  # words left when they go on
            self._fill(lambda stay=stay: left() - stay)
            hop = self.pick(["Next {they} came to the {place}.", "After that {they} went on to the {place}.",
                             "A narrow path led {them} to the {place}.",
                             "From there {they} strolled to the {place}."])
        if self.scene != start:
            self.say(back)
        self.scene, self.walking = start, False

    def pause(self) -> None:
        """Now and then, tell one thing that is to be seen or heard here."""
        if self.rng.random() < 0.4:
            line, text = self.pick(self._fillers() or [("", "For a moment nobody spoke.")])
            self.told.add(line)
            self.say(text)

    def _they(self) -> tuple[str, str]:
        return ("they", "them") if len(self.here) > 1 else (self.here[0].he, self.here[0].him)

    def _fill(self, left) -> None:
        """Tell what there is to see and to talk about until about left() words are told."""
        while left() > 3:
            fit = [(line, text) for line, text in self._fillers() if len(text.split()) <= left() + 3]
            if not fit:
                return
            line, text = self.pick(fit)
            self.told.add(line)
            self.say(text)

    def _fillers(self) -> list[tuple[str, str]]:
        """Every line that suits the scene now: as it is kept, and with its names filled in."""
        if self.scene is None:
            lines: tuple[str, ...] = AT_HOME
        else:
            lines = SIGHTS[self.scene][1:] * 3 + OUTDOORS + WEATHER[self.season][self.weather][1:]
        lines += TALK + ON_THE_WAY * self.walking
        pair = len(self.here) > 1
        unfit = UNFIT.get(self.season, []) + UNFIT.get(self.weather, []) + UNFIT["animals"] * self.animals
        unfitting = re.compile(rf"\b({'|'.join(unfit)})")
        closed = {word for what, _, _ in self.known.values() if what.kind != "holder" for word in what.pool}
        recent = content(self.text[-130:])
        # Whoever was named last does not act next: the two take turns.
        x, y = sorted((self.here * 2)[:2], key=lambda person: self.text.rfind(str(person)))
        number, (they, them) = self.pick(NUMBERS), self._they()
        their = "their" if pair else x.his
        fillings = dict(x=x, y=y, he=x.he, his=x.his, n=number, N=number.capitalize(), they=they, them=them,
                        They=they.capitalize(), their=their, Their=their.capitalize())
        found = []
        for line in lines:
            if line in self.told or unfitting.search(line) or not pair and ("{y}" in line or '"' in line):
                continue
            if not pair and line.startswith("{x} ") and sentences(self.text)[-1].startswith(str(x)):
                text = line.replace("{x}", x.He, 1).format(**fillings)
            else:
                text = line.format(**fillings)
            words = content(text)
            if not words & recent and not words & closed:
                found.append((line, text))
        return found


def sentences(text: str) -> list[str]:
    """Split at the end of each sentence; what is said and who says it stay together."""
    return re.split(r'(?:(?<=[.!?])|(?<=[.!?]"))\s+(?=[A-Z"])', text)


def content(text: str) -> set[str]:
    """The words of a text that one would notice if they came twice in a row."""
    return {word for word in re.findall(r"\b[a-z]{3,}", text) if word not in FUNCTION_WORDS}


FUNCTION_WORDS = frozenset("""said asked from with that this they them their have into then were like the and
    was his her she had for out not but one did you are all two""".split())


# ---- Openings --------------------------------------------------------------------------------------------


def begin(t: Teller, a: Person, b: Person, scene: str | None = None,
          times: tuple[str, ...] = ("morning", "afternoon", "day")) -> None:
    """Open a story: who, where, and what weather."""
    t.scene = scene
    home = "in the little house" if t.animals else "in the kitchen"
    where = at(scene) if scene else home
    day = f"{t.weather} {t.pick(times)}"
    sky = t.pick(WEATHER[t.season][t.weather][0])
    if t.animals:
        one, other = f"{a} the {a.sort}", f"{b} the {b.sort}"
        t.say(
            f"It was {article(day)} in {t.season}, and {one} and {other} were {where}.",
            f"{one} and {other} were the best of friends. {sky} They were {where} together.",
            f"There was once {article(a.sort)} called {a}. One {day} in {t.season} {a.he} was {where} "
            f"with {a.his} friend, {other}.",
            f"{sky} {one} and {other} were {where}.",
            f"Far from any town lived {one} and {other}. One {day} in {t.season} they were {where}.",
            f"One {day} in {t.season}, {one} and {other} met {where}.",
        )
        return
    friend = t.pick(["friend", "cousin", {"boy": "brother", "girl": "sister"}[b.sort]])
    both = (f"two {a.sort}s called {a} and {b}" if a.sort == b.sort
            else f"a {a.sort} called {a} and a {b.sort} called {b}")
    t.say(
        f"It was {article(day)} in {t.season}, and {a} and {b} were {where}.",
        f"One {day} in {t.season}, {both} were {where}.",
        f"{sky} {a} and {a.his} {friend} {b} were {where}.",
        f'{a} and {b} were {where}. {sky} "What shall we do today?" asked {a}.',
        f"Once upon a time there was a {a.sort} called {a}. "
        f"One {day} {a.he} was {where} with {a.his} {friend} {b}.",
        f"This is the story of {a} and {b}. One {day} in {t.season} they were {where}.",
        f"{sky} {a} and {b} were {where}, and they had plenty of time.",
        f"{a} had a {friend} called {b}, and they did everything together. One {day} they were {where}.",
        f'"What a {t.weather} day!" said {a}. {a.He} was {where} with {a.his} {friend} {b}.',
    )


def at(place: Noun | str, form: str = "{} the {}") -> str:
    """ "in the meadow", "on the hill": each place with its own little word."""
    return form.format(SIGHTS[str(place)][0], place)


# ---- Plots -----------------------------------------------------------------------------------------------


def hidden(t: Teller) -> None:
    """Two treasures are hidden in two things, and found again."""
    a, b = t.cast()
    begin(t, a, b)
    (k, m), (c, d) = t.two(KEEPSAKES), t.two(CONTAINERS)
    t.say(f"{a} had {k.a}, and {b} had {m.a}.",
          f"{a} had found {k.a} under the stairs, and {b} had found {m.a} behind the door.")
    t.say(f'"A magpie steals pretty things around here," said {b}. "We must hide our treasures."',
          f'"Let us hide our treasures," said {a}. "Nobody must ever find them."',
          "They wanted to keep their treasures safe from thieves.")
    t.say(f"{a} hid the {k} in the {c.full}, and {b} hid the {m} in the {d.full}.",
          f"So {a} put the {k} into the {c.full}, and {b} put the {m} into the {d.full}.", know=(c, d))
    (x, i, e), (y, j, f) = t.shuffled((a, k, c), (b, m, d))
    t.later(f'"Where is the {i}?" asked {y}. {x} looked in the [{e}].',
            f'"I want my {i} back," said {x}. {x.He} reached into the [{e}].',
            f"Then {x} missed {x.his} {i}. It was still in the [{e}].")
    t.say(f"There it was, just as {x} had left it.", f"The {i} was safe, and {x} smiled.",
          f'"It is here!" {x.he} cried.')
    t.pause()
    t.say(f'"And the {j}?" asked {x}. {y} ran to the [{f}] and took it out.',
          f'"Now for the {j}," said {y}. {y.He} felt about in the [{f}] and found it at the very bottom.',
          f"{y} wanted to see the {j} too. {y.He} turned the [{f}] over, and out it fell.")
    t.say("They laid the two treasures side by side on the window sill and admired them until supper.",
          f'"Tomorrow we will think of better places," said {y}. {x} was already looking for one.',
          f'"You keep mine, and I will keep yours," said {x}. {y} thought that was a fine idea.')


def forgotten(t: Teller) -> None:
    """Two things are left behind at two places."""
    a, b = t.cast()
    begin(t, a, b)
    (k, m), (p, q) = t.two(BELONGINGS), t.places()
    t.say(f"{a} took {a.his} {k.full}, {b} took {b.his} {m.full}, and off they went to play.",
          f"They packed some bread and went out, {a} with {a.his} {k.full} and {b} with {b.his} {m.full}.")
    t.say("They played so long that they forgot their things.",
          "They had a lot of fun, and nobody looked after the things.",
          "They ran about until they were quite out of breath.")
    t.say(f"When they went home, {a} left the {k} {at(p)}, and {b} left the {m} {at(q)}.",
          f"When they went in again, the {k} was still {at(p)}, and the {m} was still {at(q)}.", know=(p, q))
    (x, i, e), (y, j, f) = t.shuffled((a, k, p), (b, m, q))
    here, there = at(e, "{} the [{}]"), at(f, "{} the [{}]")
    t.later(f'"Oh no, my {i}!" cried {x}. They ran to the [{e}].',
            f'"Where is the {i}?" asked {y}. "I left it {here}," said {x}. They hurried back.',
            f"Then {x} missed the {i}. They hurried to the [{e}].")
    t.scene = str(e)
    t.say(f"There lay the {i}, just where it had been.",
          f"A small bird sat on the {i} and flew away when they came.",
          f"{x} looked everywhere. At last {x.he} saw the {i} behind a stone.")
    t.say(f'"And my {j} must be {there}," said {y}. They went there at once.',
          f"Now only the {j} was missing. So they walked on to the [{f}].")
    t.say(f"Nobody had taken it, and {y} jumped for joy.", f"{y} saw the {j} first and hugged it tightly.")
    t.say("It was almost dark when they came home.", "They held on to everything all the way home.",
          f'"Next time I will tie it to my {"tail" if t.animals else "arm"}," said {y}.')


def snacks(t: Teller) -> None:
    """Each gets something different to eat, and each eats it later."""
    a, b = t.cast()
    g, (p,) = t.elder(), t.places(1)
    begin(t, a, b, str(p))
    k, m = t.two(SNACKS)
    t.say(f"They wanted to stay out until the evening, and {g} had thought of that.",
          f"{g} had come along, but {g.he} soon wanted to go home.",
          f"They were going to be out all day, and {g} came to say goodbye.")
    t.say(f'"You will get hungry," {g.he} said. Then {g.he} gave {a} {k.a} and {b} {m.a}.',
          f'{g.He} opened {g.his} bag. "Here is {k.a} for {a}, and here is {m.a} for {b}," {g.he} said.',
          know=(k, m))
    (x, i), (y, j) = t.shuffled((a, k), (b, m))
    t.later(f'"I am hungry now," said {x}. {x.He} took a bite of the [{i}].',
            f"At last {x} felt hungry and bit into the [{i}].",
            f'"Time to eat!" said {x}, and {x.he} took out the [{i}].', beats=(f"They thanked {g.him}.",))
    t.say("It tasted wonderful.", f"{x.He} ate it all up and licked {x.his} lips.",
          "Soon not a crumb was left.")
    t.pause()
    t.say(f"A hungry little bird was watching them, so {y} gave it some of the [{j}].",
          f'"Now it is my turn," said {y}, and {y.he} shared the [{j}] with {x}.',
          f"{y} sniffed at the [{j}] and took a tiny bite. Then {y.he} took a big one.")
    t.say("After that they felt full and lazy.", f'"We should do this every day," said {y}.',
          f"Now they were strong enough to walk home. {g} was waiting at the door.")


def cake(t: Teller) -> None:
    """Two grown-ups like two different things on their cakes."""
    a, b = t.cast(animals=False)
    g, h = t.rng.sample(ELDERS, 2)
    begin(t, a, b)
    k, m = t.two(FRUITS)
    t.say(f"Tomorrow {g} and {h} had their birthdays, both on the same day.",
          f"They wanted to bake two cakes, one for {g} and one for {h}.",
          f"{g} and {h} were coming to tea, and each of them was to have a cake.")
    t.say(f"{a} stirred the dough, and {b} greased the tins.",
          f"{b} fetched the flour, and {a} cracked the eggs.")
    t.say(f"They knew that {g} liked {k} best, and that {h} liked {m} best.",
          f"{g} loved {k}, and {h} loved {m}.", know=(k, m))
    (g, i), (h, j) = t.shuffled((g, k), (h, m))
    t.later(f'"What does {g} like?" asked {a}. "{g} likes [{i}]," said {b} and put them on.',
            f"First {b} covered the cake for {g} with [{i}].",
            f"On the cake for {g} they put a ring of [{i}].", walk="While the cakes were in the oven, {they}")
    t.say(f"{a} ate one in secret.", "It looked splendid.", f'"Not so many!" said {a}.')
    t.say(f"Then they took the cake for {h} and decorated it with [{j}].",
          f'"This one is for {h}, so it gets [{j}]," said {a}.')
    t.say(f"When {h} saw it, {h.he} clapped {h.his} hands. {g} asked for a second slice at once.",
          f'{g} took one bite and shut {g.his} eyes. "How did you know?" {g.he} asked.',
          "The next evening there was nothing left but two empty plates.")


def planting(t: Teller) -> None:
    """Two seeds in two pots come up."""
    t.season, t.weather = "spring", t.pick(["sunny", "rainy"])
    a, b = t.cast()
    begin(t, a, b, "garden")
    (k, m), (c, d) = t.two(PLANTS), t.two(COLOURS)
    t.say(f"They had two seeds and two pots, {c.a} one and {d.a} one.",
          f"{t.elder()} had given them two seeds and two pots, {c.a} one and {d.a} one.")
    t.say(f"{a} put a {k} seed into the {c} pot, and {b} put a {m} seed into the {d} pot.",
          f"In the {c} pot {a} planted a {k}, and in the {d} pot {b} planted a {m}.", know=(k, m))
    (x, i, e), (y, j, f) = t.shuffled((a, k, c), (b, m, d))
    t.later(f"Three weeks later, something grew in the {e} pot: a [{i}].",
            f"One morning in the {e} pot there stood a [{i}].", walk="One day {they}",
            beats=("They watered the pots every day, but nothing happened.", "It was hard to wait."))
    t.say(f'"It is up! It is up!" cried {x}.', f"{x} danced around it three times.",
          "Its two leaves were no bigger than a fingernail.")
    t.say(f"The {f} pot took longer. But then {y} had a [{j}] too, and it grew a little every night.",
          f"Two days later the {f} pot was no longer bare. Out of it came a [{j}].")
    t.say("They asked everyone to come and look.", f'"You can see how proud it is," said {y}.',
          f"{x} and {y} gave both of them a drink and then sat down to watch them grow.")


def repair(t: Teller) -> None:
    """Something is broken, and each child has brought what is needed to mend it."""
    a, b = t.cast(animals=False)
    g = t.elder()
    begin(t, a, b, t.pick(["garden", "farm"]))
    broken, mended = t.pick([
        ("gate", "It swung open and shut without a sound"), ("cart", "It rolled along without a squeak"),
        ("swing", "It could carry both of them again"), ("bench", "It did not even wobble"),
        ("henhouse", "The hens walked in and looked around")])
    k, m = t.two(TOOLS)
    t.say(f"The old {broken} was broken, and {g} shook {g.his} head.",
          f'"Look at the {broken}!" said {a} to {g}. "It has fallen to bits."',
          f"They had climbed about on the {broken} until it broke, and {g} was not pleased.")
    t.say(f'"We can mend it," {g.he} said. "But I need some things from the shed."',
          f"Of course {g.he} knew how to mend it, and the children wanted to help.")
    t.say(f"{a} fetched {k.a}, and {b} fetched {m.a}.",
          f"So {a} ran and found {k.a}, and {b} came back with {m.a}.", know=(a, b, k, m))
    (x, i), (y, j) = t.shuffled((a, k), (b, m))
    t.later(f'"Now I need the {i}," said {g}. "Here!" said [{x}].',
            f'"Who has the {i}?" asked {g}. "I have it," said [{x}].',
            f'"What did you bring, {x}?" asked {g}. {x} held up the [{i}].',
            f'"Your turn, {x}," said {g}. {x} gave {g.him} the [{i}].',
            walk="Meanwhile {they}", beats=(f"{g} sat down and thought for a while.",))
    t.say(f"{g} worked slowly and whistled through {g.his} teeth.",
          f"{x.He} watched closely and did not say a word.")
    t.pause()
    t.say(f'"And now yours, {y}," said {g}. {y} gave {g.him} the [{j}].',
          f"But something was still loose. Luckily {y} had brought the [{j}].")
    t.say(f"Before supper the {broken} was as good as new. {mended}.", f"Then it was done. {mended}.")
    t.say(f'"Well done, you two," said {g}.', f"{g} made pancakes for everyone.",
          "They painted it red the next day.")


def visitor(t: Teller) -> None:
    """A visitor has promised two presents."""
    a, b = t.cast(animals=False)
    g = t.elder()
    stop, came = t.pick([("station", "the engine came puffing in"), ("harbour", "the white ship came in"),
                         ("bridge", "a carriage came up the road")])
    begin(t, a, b, stop)
    k, m = t.two(TOYS)
    t.say(f"They were waiting for {g}, who had been away for a whole year.",
          f"{g} was coming to visit them, and they could not stand still.")
    t.say(f"In {g.his} last letter {g.he} had promised {a} {k.a} and {b} {m.a}.",
          f'"I will bring {k.a} for {a} and {m.a} for {b}," {g.he} had written.', know=(k, m))
    (x, i), (y, j) = t.shuffled((a, k), (b, m))
    t.later(f"At last {came}, and {x} got the [{i}].",
            f"Then {g} came. {x} opened {x.his} parcel and found the [{i}].",
            f'Then {came}. "{x}, this is for you," said {g}. It was the [{i}].',
            walk="To pass the time {they}",
            beats=("But nobody came.", f'"What if {g.he} forgets?" asked {y}.'))
    t.say(f"{x} laughed and {TOY_PLAY[str(i)]}.", f"At once {x} {TOY_PLAY[str(i)]}.")
    t.say(f"{y} tore the paper off the other parcel. Out came the [{j}], and {y} {TOY_PLAY[str(j)]}.",
          f'"I have not forgotten you, {y}," said {g}, and there was the [{j}]. {y} {TOY_PLAY[str(j)]}.')
    t.say(f"All the way home {g} had to tell them about {g.his} travels.",
          f'"And what do I get?" asked {g}. They gave {g.him} a kiss on each cheek.',
          f"{g} stayed for a week, and it was the best week of the year.")


def seek(t: Teller) -> None:
    """Hide-and-seek at the farm."""
    a, b, s = t.cast(3)
    begin(t, a, b, "farm")
    third = f"{s} the {s.sort}" if t.animals else f"their friend {s}"
    t.say(f"{third[0].upper()}{third[1:]} came running and wanted to play hide-and-seek.",
          f'"Shall we play hide-and-seek?" asked {third}.')
    k, m = t.two(SPOTS)
    t.say(f"{s} shut {s.his} eyes and began to count.", f"It was {s}'s turn to look for the others.")
    t.say(f"{a} crept behind the {k}, and {b} hid behind the {m}.",
          f"Quick as a flash {a} slipped behind the {k}, while {b} lay down behind the {m}.", know=(k, m))
    t.here = [s]
    (x, i), (y, j) = t.shuffled((a, k), (b, m))
    t.later(f"Then {s} heard {x} laugh behind the [{i}].", f"Suddenly {x} sneezed behind the [{i}].",
            f"But {x}'s foot stuck out from behind the [{i}].", walk=f"{s} took the wrong way and",
            beats=(f'"Ready or not, I am coming!" called {s}.',))
    t.say(f'"I can see you!" cried {s}.', f"{s} tiptoed up and tapped {x} on the back.")
    t.say(f"{y} was harder to find. {y.He} sat behind the [{j}] and held {y.his} breath.",
          f"Now they both looked for {y}. They found {y.him} behind the [{j}], fast asleep.")
    t.say(f'"You win, {y}," said {s}. "Let us play again!"', f'"Now you must count," said {x} to {y}.',
          "They played until somebody called them in for supper.")


def stores(t: Teller) -> None:
    """Two animals bury food for the winter under two trees."""
    t.season, t.weather = "autumn", t.pick(["windy", "misty"])
    a, b = t.here = t.rng.sample(ANIMALS, 2)
    begin(t, a, b, "forest")
    (k, m), (p, q) = t.two(STORES), t.two(TREES)
    t.say(f"Winter was on its way. {a} had gathered a heap of {k}, and {b} had gathered a heap of {m}.",
          f"{a} had a sack of {k}, and {b} had a sack of {m}. They wanted to save them for the winter.")
    t.say(f"{a} buried the {k} under the {p.full}, and {b} buried the {m} under the {q.full}.",
          f"Under the {p.full} {a} dug a hole for the {k}, and under the {q.full} {b} dug one for the {m}.",
          know=(p, q, k, m))
    (x, i, e), (y, j, f) = t.shuffled((a, k, p), (b, m, q))
    t.later(f"Then the snow came. {x} was hungry and ran to the [{e}].",
            f"When it snowed, {x} wanted {x.his} {i} and hurried to the [{e}].",
            f"Winter came. {x} dug for the {i} under the [{e}].", walk="After that {they}",
            beats=("It was hard work.",))
    t.say(f"{x.He} scratched and scratched until {x.he} saw the first one.",
          f"Yes, there they were, and {x} was glad.")
    t.say(f"{y} had more trouble. It took {y.him} all day to find the right spot under the [{f}].",
          f"{y} came along with a spade. {y.He} cleared away the snow under the [{f}] and began to dig.")
    t.say(f"That evening they ate by the fire, and {x} tried some of {y}'s [{j}].",
          f"In the end they sat down together, and {y} got a few of {x}'s [{i}] as well.")
    t.say("Outside the wind howled, but they did not mind.",
          "It was a long winter, but they were never hungry.")


def swap(t: Teller) -> None:
    """Two friends trade, and after that each has what was the other's."""
    a, b = t.cast()
    g, (p,) = t.elder(), t.places(1)
    begin(t, a, b, str(p))
    k, m = t.two(KEEPSAKES)
    t.say(f"{a} had {k.a}, and {b} had {m.a}.",
          f"{a} was playing with {k.a}, and {b} was playing with {m.a}.")
    t.say(f'"Shall we swap?" asked {b}. {a} thought about it for a long time. "All right," {a.he} said.',
          f"{a} liked {b}'s {m} much better, so they agreed to swap.")
    t.say(f"{a} gave the {k} to {b}, and {b} gave the {m} to {a}.",
          f"So {b} got the {k} from {a}, and {a} got the {m} from {b}.", know=(a, b, k, m))
    (x, i), (y, j) = t.shuffled((a, m), (b, k))
    t.later(f"{g} came by, and {x} showed {g.him} the [{i}].",
            f'They met {g}. "Who has the {i}?" {g.he} asked. "Me," said [{x}].',
            f"When they met {g}, {x} was still holding the [{i}].")
    t.say(f'"How pretty!" said {g}.', f'"I used to have one like that," said {g}.',
          f"{g} looked at it with one eye shut.")
    t.say(f"Then {y} held out the [{j}] as well.",
          f'"Look at me!" said {y}. {y.He} was very proud of the [{j}].')
    t.say("They never swapped back.", f"That night {x} put {x.his} new treasure under the pillow.",
          f"Each of them was sure to have made the better deal, and {g} said nothing.")


def pets(t: Teller) -> None:
    """Two pets run away, each to its own bed."""
    a, b = t.cast(animals=False)
    begin(t, a, b)
    (k, m), (c, d) = t.two(PET_NAMES), t.two(BEDS)
    one, other = t.rng.sample(["kitten", "puppy", "rabbit", "hamster"], 2)
    t.say(f"{a} had a {one} called {k}, and {b} had a {other} called {m}.", know=(k, m))
    t.say(f"{k} liked to sleep in the {c.full}, and {m} liked to sleep in the {d.full}.",
          f"{k} always slept in the {c.full}, and {m} always slept in the {d.full}.", know=(c, d))
    (x, i, e, s), (y, j, f, u) = t.shuffled((a, k, c, one), (b, m, d, other))
    t.later(f"Suddenly {i} was gone. {x} found it in the [{e}].",
            f'"Where is {i}?" asked {x}. It was in the [{e}].',
            f'Then {x} could not find {i}. It lay in the [{e}].', walk="After lunch {they}")
    t.say(f"The {s} was shaking a little, so {x} stroked it.", "It was only tired.")
    t.say(f'Now the {u} was missing. "Where are you, [{j}]?" called {y}.',
          f'But now {y} was close to tears. "Please come back, [{j}]!" {y.he} called.')
    t.say(f"A small sound came from the [{f}], and then a nose peeped out.",
          f"Something moved in the [{f}], and there it was.")
    t.say("The two pets got something to nibble and curled up side by side.",
          f'"You silly thing," said {y}, and {y.he} laughed.')


def race(t: Teller) -> None:
    """Two toy boats with sails of two colours."""
    t.season, t.weather = t.pick([("spring", "sunny"), ("summer", "bright")])
    a, b = t.cast()
    begin(t, a, b, t.pick(["river", "pond"]))
    c, d = t.two(COLOURS)
    t.say("They had carved two boats out of bark.", "Each of them had built a boat from a piece of bark.")
    t.say(f"{a}'s boat had {c.a} sail, and {b}'s boat had {d.a} sail.",
          f"{a} had made {c.a} sail, and {b} had made {d.a} sail.", know=(a, b, c, d))
    (x, i), (y, j) = t.shuffled((a, c), (b, d))
    t.later(f'Then the wind came. The {i} sail won. "Hooray!" cried [{x}].',
            f'Then came a gust. "The {i} sail is winning!" cried [{x}].',
            f"Then the wind came, and {x} won with the [{i}] sail.", walk="So {they}",
            beats=(t.pick(["But there was no wind yet.", "At first the boats did not want to move."]),))
    t.say(f"{x.He} ran up and down the bank.", f"{x.He} was so happy that {x.he} nearly fell in.")
    t.pause()
    t.say(f"{y} had to find a stick, because the boat with the [{j}] sail was stuck in the reeds.",
          f"{y} was far behind. {y.He} laughed when {y.he} saw the [{j}] sail turn in circles.")
    t.say(f'"I will build a bigger one tomorrow," said {y}.',
          f'"Once more!" said {y}. This time {y.he} won by a nose.',
          f"They let the boats race until {'the moon came up' if t.animals else 'their sleeves were wet'}.")


def errand(t: Teller) -> None:
    """Two things are to be brought to two neighbours."""
    a, b = t.cast(animals=False)
    g = t.elder()
    begin(t, a, b, "garden")
    (k, m), (p, q) = t.two(GOODS), t.two(NEIGHBOURS)
    t.say(f'"Will you do something for me?" asked {g}.', f"{g} needed two good helpers.",
          f"{g} had hurt {g.his} foot and could not walk far.")
    t.say(f'{g.He} said, "Take the {k.full} to the {p}, and take the {m.full} to the {q}."',
          f"The {k.full} was for the {p}, and the {m.full} was for the {q}.", know=(p, q))
    (x, i, e), (y, j, f) = t.shuffled((a, k, p), (b, m, q))
    t.scene = t.pick(["bridge", "church", "park", "pond"])
    t.later(f'"Who gets the {i}?" asked {y}. "The [{e}]," said {x}.',
            f'"Who is the {i} for?" asked {x}. "It is for the [{e}]," said {y}.',
            f"With the {i} they knocked at the door of the [{e}].", walk="But first {they}",
            beats=(f"They set out, and soon they were {at(t.scene)}.",))
    t.say("There they got a loud thank you and a sweet.", "They handed it over with a bow.")
    t.say(f"Then they had to give the {j} to the [{f}], who lived at the other end of the village.",
          f'"And the {j} is for the [{f}]," said {y}. They did not have to go far.')
    t.say(f'When they were back, {g} asked, "Did you drop anything?" They shook their heads.',
          f"{g} had hot soup ready when they came home.",
          "On the way home they did not have to carry a thing.")


def shopping(t: Teller) -> None:
    """Each child has to remember one thing to buy."""
    a, b = t.cast(animals=False)
    g = t.elder()
    begin(t, a, b)
    k, m = t.two(GROCERIES)
    t.say(f"{g} looked into the pantry and found it almost empty.", f"{g} wanted to cook something special.")
    t.say(f'"Can you go shopping for me?" {g.he} asked. {g.He} counted out the money.',
          f"There was nobody else to go shopping, so {g.he} gave them a purse.")
    t.say(f"{a} had to buy {k}, and {b} had to buy {m}.",
          f"{a}'s job was to buy {k}, and {b}'s job was to buy {m}.",
          know=(k, m))
    (x, i), (y, j) = t.shuffled((a, k), (b, m))
    t.scene = "market"
    t.later(f'"What do you want?" asked the grocer. {x} asked for [{i}].',
            f"At the grocer's stall {x} thought hard and asked for [{i}].", walk="But first {they}",
            beats=("Off they went to the market.",))
    t.say("The grocer wrapped it up in paper.", "The grocer weighed it with great care.",
          f"It cost {t.pick(NUMBERS)} coins.")
    t.say(f'"And what about you, {y}?" asked the grocer. "I need some [{j}], please."',
          f"{y} had not forgotten that {y.he} had to buy [{j}].")
    t.say(f"They carried everything home, and {g} was pleased. There was even a coin left for sweets.",
          f"At home {g} put on an apron and began to cook. Soon the whole house smelled good.")


def supper(t: Teller) -> None:
    """Two grown-ups have to be called to supper from two places."""
    a, b = t.cast(animals=False)
    g, h = t.rng.sample(ELDERS, 2)
    begin(t, a, b, times=("afternoon", "day"))
    p, q = t.places()
    t.say("There was to be a big supper that evening.", "A pie was in the oven, big enough for four.",
          "They had cooked supper all by themselves.")
    t.say("Now they had to call the others in time.", "They were to call the others when it was ready.")
    t.say(f"{g} was {at(p)}, and {h} was {at(q)}.", f"{g} had gone to the {p}, and {h} had gone to the {q}.",
          know=(p, q))
    (g, i), (h, j) = t.shuffled((g, p), (h, q))
    t.later(f'"Time to call {g}," said {a}. They went to the [{i}].',
            f'"It is time," said {b}. First they fetched {g} from the [{i}].',
            f'"Now for {g}," said {a}, and they hurried to the [{i}].',
            walk="There was still time, so {they}",
            beats=("They laid the table with the best plates.",))
    t.say(f'"Supper is ready!" {b} called, and {g} came at once.',
          f"{g} was glad, because {g.he} was very hungry.")
    t.say(f"Now only {h} was missing. They ran to the [{j}] as fast as they could.",
          f'"And {h}?" asked {b}. "We must go to the [{j}]," said {a}, and off they ran.')
    t.say(f'"Is it pie?" asked {h}. It was.', f"{h} took them both by the hand.")
    t.say("Then everyone sat around the table, and for a while nobody spoke.",
          "They ate until it was quite dark.",
          f"{g} had three helpings, and {h} had four.")


PLOTS = (hidden, forgotten, snacks, cake, planting, repair, visitor, seek, stores, swap, pets, race, errand,
         shopping, supper)


# ---- Telling stories -------------------------------------------------------------------------------------


def story(rng: random.Random, distance: int | None = None) -> Story:
    """Tell one story, with about `distance` words from its main fact to the recall of it."""
    while True:
        t = Teller(rng, distance)
        t.pick(PLOTS)(t)
        told = sentences(t.text)
        right_length = distance is not None or (90 <= len(t.text.split()) <= 170 and 8 <= len(told) <= 18)
        if right_length and len(set(told)) == len(told) and abs(t.recalls[0].distance - t.distance) <= 6:
            return Story(t.text, tuple(t.recalls))


def words() -> set[str]:
    """All that a story may have to recall: who, what, where, and of what colour."""
    things = (KEEPSAKES, CONTAINERS, BELONGINGS, BEDS, TOYS, SNACKS, FRUITS, GROCERIES, STORES, TOOLS, PLANTS, COLOURS, TREES,
              SPOTS, NEIGHBOURS, GOODS, PET_NAMES, PLACES)  # fmt: skip
    persons = (CHILDREN, ANIMALS, ELDERS, WISE_ANIMALS)
    return {str(rows[0]) for group in things for rows in group} | {str(person) for group in persons for person in group}


def corpus(n: int, seed: int) -> Iterator[str]:
    """Tell n stories."""
    rng = random.Random(seed)
    for _ in range(n):
        yield story(rng).text

"""The words the model is asked and answers with. `{}` slots are filled by the scenes."""

NUMBERS = ("zero", "one", "two", "three", "four", "five", "six")
ORDINALS = ("first", "second", "third")
PLACES = ("top left", "top", "top right", "left", "middle", "right", "bottom left", "bottom", "bottom right")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
PLURALS = {"cross": "crosses"}

COLOUR_ONE = (
    "What colour is the {shape}?",
    "What is the colour of the {shape}?",
    "Which colour is the {shape}?",
    "Tell me the colour of the {shape}.",
)
COLOUR_ONLY = (
    "What colour is it?",
    "What colour is the shape?",
    "Which colour do you see?",
    "What colour is shown in the image?",
)
SHAPE_ONLY = (
    "What shape is this?",
    "Which shape is shown?",
    "What shape do you see?",
    "What shape is in the image?",
    "Name the shape.",
)
COUNT_SHAPE = (
    "How many {shapes} are there?",
    "How many {shapes} do you see?",
    "Count the {shapes}.",
    "How many {shapes} are in the image?",
)
COUNT_ALL = (
    "How many shapes are there?",
    "How many objects are in the image?",
    "Count the shapes.",
    "How many things do you see?",
)
COUNT_COLOUR = (
    "How many {colour} shapes are there?",
    "How many shapes are {colour}?",
    "Count the {colour} shapes.",
)
WHERE = (
    "Where is the {shape}?",
    "Where is the {colour} {shape}?",
    "Where can you see the {shape}?",
    "What is the position of the {shape}?",
    "Where is the {colour} shape?",
)
SHAPE_OF = (
    "What shape is the {colour} thing?",
    "What shape is the {colour} one?",
    "Which shape is {colour}?",
    "What is the {colour} shape?",
)
AT_PLACE = (
    "What is at the {place}?",
    "What is in the {place}?",
    "What do you see at the {place}?",
    "Which object is at the {place}?",
)
COLOUR_AT = ("What colour is the shape at the {place}?", "Which colour is at the {place}?")
PRESENT = (
    "Is there a {thing}?",
    "Is there a {thing} in the image?",
    "Do you see a {thing}?",
    "Does the image show a {thing}?",
    "Can you see a {thing} here?",
)
CAPTION = (
    "Describe the image.",
    "What is in the image?",
    "What do you see?",
    "What does the image show?",
    "Describe this picture.",
    "Please describe the image.",
    "What is this?",
)
READ_NUMBER = (
    "What number is shown?",
    "Read the number.",
    "What is the number?",
    "Which number do you see?",
    "What number is written here?",
)
READ_WORD = (
    "Read the word.",
    "What word is shown?",
    "What is the word?",
    "Which word do you see?",
    "What word is written here?",
)
READ_TEXT = (
    "What is written?",
    "Read the text.",
    "What does the text say?",
    "What does it say?",
    "What text is in the image?",
)
READ_SMALL = (
    "What does the small text say?",
    "Read the small text.",
    "What is the small text?",
    "What is written in the image?",
    "Read the text.",
    "What does the text say?",
)
WHICH_IMAGE = (
    "Which image shows a {thing}?",
    "Which image has a {thing}?",
    "In which image is the {thing}?",
    "Which picture shows the {thing}?",
)
NTH_COLOUR = ("What colour is the shape in the {nth} image?", "Which colour is in the {nth} image?")
NTH_SHAPE = ("What shape is in the {nth} image?", "Which shape does the {nth} image show?")
NTH_THING = ("What is in the {nth} image?", "What does the {nth} image show?", "Describe the {nth} image.")
EACH_IMAGE = (
    "What does each image show?",
    "Describe the images.",
    "What is in the images?",
    "Describe each image.",
)
SAME = (
    "Do both images show the same {what}?",
    "Is the {what} the same in both images?",
    "Are the two {whats} the same?",
)
MORE = ("Which image has more {shapes}?", "Which image shows more {shapes}?", "Where are more {shapes}?")
FEWER = ("Which image has fewer {shapes}?", "Which image shows fewer {shapes}?")
MOVES = (
    "Which way does the {shape} move?",
    "In which direction does the {shape} move?",
    "Where does the {shape} move?",
    "Which direction does the {shape} go?",
    "How does the {shape} move?",
)
WHAT_MOVES = ("What moves?", "What is moving in the video?", "Which shape moves?")
WHICH_FRAME = (
    "In which frame does the {shape} appear?",
    "Which frame shows the {shape}?",
    "In which frame is the {shape}?",
    "When does the {shape} appear?",
)
IN_FRAME = ("What is in frame {n}?", "What does frame {n} show?")
IN_VIDEO = ("Does the video show a {shape}?", "Is there a {shape} in the video?", "Do you see a {shape}?")
EACH_FRAME = ("What does each frame show?", "Describe the video.")
IT_COLOUR = ("What colour is it?", "And what colour is it?", "Which colour does it have?")
IT_PLACE = ("Where is it?", "And where is it?", "Where in the image is it?")
IT_SHAPE = ("What shape is it?", "And what shape is it?", "Which shape does it have?")
AND_COUNT = ("And how many {shapes}?", "And the {shapes}?")
AND_THERE = ("And a {thing}?", "And is there a {thing}?")

GREETINGS = ("Hello", "Hello!", "Hi", "Hi!", "Hello there!", "Good morning!", "Hey", "How are you?")
GREETING_REPLY = "Hello! Ask me about an image."
WHO = ("Who are you?", "What are you?", "What is your name?", "Tell me about you.")
WHO_REPLY = "I am a small model that looks at images."
ABILITIES = ("What can you do?", "How can you help me?", "What do you know?", "Help")
ABILITIES_REPLY = "I can name colours and shapes, count, read short words and follow a video."
THANKS = ("Thank you!", "Thanks", "Thanks!", "Bye", "Goodbye!")
THANKS_REPLY = "You are welcome!"
NO_IMAGE_REPLY = "Please show me an image."

WORDS = (
    "CAT", "DOG", "SUN", "MAP", "CUP", "BUS", "HAT", "KEY", "BOX", "PEN", "RED", "BED", "ICE", "JAM", "LEG",
    "ARM", "EGG", "FOX", "GAS", "HEN", "INK", "JET", "KID", "LIP", "MUD", "NET", "OAK", "PIG", "RAT", "SEA",
    "TEA", "URN", "VAN", "WEB", "YAK", "ZOO", "ANT", "BEE", "COW", "ELF", "FAN", "GUM", "HUT", "JAR", "LOG",
    "MOP", "NUT", "OWL", "PAN", "RUG", "SKY", "TOY", "VET", "WAX", "YES", "ZIP", "BOOK", "FISH", "TREE",
    "DOOR", "MILK", "STAR", "MOON", "RAIN", "SNOW", "WIND", "FIRE", "GOLD", "HAND", "FOOT", "KING",
    "LION", "BEAR", "BIRD", "CAKE", "CORN", "DESK", "DUCK", "FARM", "FROG", "GAME", "GIFT", "HILL",
    "HOME", "IRON", "JUMP", "KITE", "LAMP", "LEAF", "MAZE", "NEST", "OPEN", "PARK", "QUIZ", "ROAD",
    "SHIP", "TAXI", "UNIT", "VASE", "WOLF", "EXIT", "STOP", "SALE", "TIME", "ZERO", "APPLE",
    "BREAD", "CHAIR", "DANCE", "EARTH", "FRUIT", "GRASS", "HORSE", "JUICE", "KNIFE", "LEMON",
    "MOUSE", "NIGHT", "OCEAN", "PIANO", "QUEEN", "RIVER", "SHEEP", "TIGER", "WATER", "ZEBRA",
    "MUSIC", "HOTEL", "TRAIN",
)  # fmt: skip


def plural(shape: str) -> str:
    """The plural of a shape name."""
    return PLURALS.get(shape, shape + "s")


def article(noun: str) -> str:
    """`noun` with its indefinite article."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def listed(items: list[str]) -> str:
    """Items joined the way a sentence does: "a, b and c"."""
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + " and " + items[-1]

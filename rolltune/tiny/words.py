"""The words that generated pictures print."""

import random

_LIST = """
able about above act add after again age ago air all also always amber anchor angle animal answer ant any apple
april arm army art ask atlas autumn away baby back bag bake ball band bank bar base basket bath bay beach bean
bear beat bed bee beef bell belt bench best better big bike bill bird birthday black blade blue board boat body
bone book boot boss bottle bowl box boy brain branch brave bread break brick bridge bright bring brown brush build
bus busy butter button buy cab cake calm camera camp can candle candy captain car card care carpet cart cash
castle cat catch cave center chain chair chalk change charm cheap check cheese cherry chess child chip choice
circle city class clean clear clever clock close cloud club coach coast coat code coffee coin cold color comb come
cook cool copper corn corner cost cotton count cow craft cream cross crown cup curve cut daily dance dark day deal
dear deep deer delta desk dinner dish dog door double down draw dream dress drink drive drop drum dry duck dust
eagle ear early earth east easy eat echo edge egg eight empty end engine enjoy enter equal even event every exit
extra eye face fact fair fall family famous fan farm fast feather field film find fine fire first fish five fix
flag flat flavor floor flour flower fly focus fold food foot forest fork form four fox frame free fresh friend
frog front fruit full fun future galaxy game garden gas gate gift girl give glass glow glue go goal goat gold good
grain grand grape grass great green grill group grow guest guide guitar hair half hall hand happy harbor hard hat
heart heavy hello help herb here hero high hill hold home honest honey hope horse hot hotel hour house huge ice
idea inside iron island ivory jacket jam jazz jelly jewel job join juice july jump june jungle keen keep kettle
key kind king kitchen kite knife knot label lake lamp land large last late laugh lava leaf learn left lemon lens
level light lime line lion list little local lock long look love low lucky lunch magic main make map maple march
mark market master match meal meat medal melon menu metal mild milk mind mine mini mint mix mobile model moon more
morning motor mountain mouse move much music nail name nature near neat nest net never new nice night nine noble
noise north nose note number nut oak ocean offer office oil old olive one only open orange orbit order organ other
oven over own pack page paint pair palm pan paper park party pass past path peace peach pearl pen pepper perfect
phone photo piano pick picnic pie pilot pine pink pizza place plain plan plant plate play plum pocket point pole
pony pool poor pop port post pot power press price print prize pro pump pure purple push quality queen quick quiet
quiz rabbit race radio rain ranch range rapid ready real red rest rich ride right ring river road robot rock roof
room root rope rose round royal ruby run sad sail salad salt sand sauce save scale school sea seat secret seed
sell seven shade shadow shape sharp sheep shell shine ship shirt shoe shop short show side silk silver simple sing
six size skin sky sleep slice slim slow small smart smile smoke smooth snack snow soap sock soda sofa soft soil
solar solid song soul soup south spa space spark spice spider spoon sport spot spring square stage stamp star
start station stay steam steel step stick still stone store storm story strong studio style sugar suit summer sun
super sushi sweet swim table tail talk tall tango tape taste taxi tea team teeth ten tent test thank thin third
three ticket tide tiger time tiny toast today toe tomato tool tooth top total touch towel tower town toy track
trade train travel treat tree trip truck true trust tube tulip tuna turn twelve twin two ultra umbrella under unit
up urban use valley value vanilla velvet very view violet violin visit voice wagon walk wall warm wash watch water
wave wax way week well west wheat wheel white whole wide wild win wind window wine wing winter wish wolf wonder
wood wool word work world yard year yellow yes yoga young zebra zero zone zoo
"""
WORDS: tuple[str, ...] = tuple(_LIST.split())
COMMON: tuple[str, ...] = WORDS[::9]  # those that are read first and most often
PRAISE: tuple[str, ...] = tuple(  # what badges say, as printed
    """
    NEW|SALE|HOT|FRESH|BEST|No.1|FREE|SAVE|WOW|CURES|100%|SAFE|MIRACLE|HEALS|TASTY|YUM|GIFT|ECO|BIO|VIP|TOP|DEAL|ONLY
    |EXTRA|NOW|SLIM|PURE|-20%|-50%|2 for 1|18+|HIT|COOL|LAST DAY|SPRING|SUMMER|WINTER|TRY ME|LOCAL|BIG
    """.replace("\n", "")
    .replace("    ", "")
    .split("|")
)


def cased(rng: random.Random, word: str) -> str:
    """As printed: mostly capitals or a capital first."""
    return rng.choice((word.upper(), word.upper(), word.capitalize(), word))


def number(rng: random.Random) -> str:
    kind = rng.random()
    if kind < 0.5:
        return str(rng.randint(0, 10 ** rng.randint(1, 4) - 1))
    return rng.choice(
        (f"{rng.randint(1, 99)}%", f"{rng.randint(0, 23)}:{rng.randint(0, 59):02}", f"{rng.randint(1, 99)}+")
    )


def nonsense(rng: random.Random) -> str:
    """Letters that are no word, half the time pronounceable."""
    if rng.random() < 0.5:
        return "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.randint(1, 3)))
    return "".join(rng.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(rng.randint(1, 6)))


def printed(rng: random.Random) -> str:
    """A text as printed. Few short texts make up most of it: they are learnt first and open the way to the rest."""
    kind = rng.random()
    if kind < 0.5:
        return rng.choice(PRAISE)
    if kind < 0.75:
        return rng.choice(COMMON).upper()
    if kind < 0.88:
        return cased(rng, rng.choice(WORDS))
    return cased(rng, nonsense(rng)) if kind < 0.94 else number(rng)


def altered(rng: random.Random, text: str) -> str:
    """A text that differs: mostly another one, else this one with one character exchanged."""
    if rng.random() < 0.25 and any(c.isalnum() for c in text):
        letters = list(text)
        place = rng.choice([i for i, c in enumerate(text) if c.isalnum()])
        pool = "0123456789" if text[place].isdigit() else "abcdefghijklmnopqrstuvwxyz"
        pool = pool.upper() if text[place].isupper() else pool
        letters[place] = rng.choice(pool.replace(text[place], ""))
        return "".join(letters)
    other = printed(rng)
    while other.lower() == text.lower():
        other = printed(rng)
    return other


def price(rng: random.Random) -> str:
    whole = rng.choice((rng.randint(1, 9), rng.randint(10, 99), rng.randint(100, 999)))
    return rng.choice((f"${whole}", f"${whole}.{rng.choice(('99', '50', '95'))}"))

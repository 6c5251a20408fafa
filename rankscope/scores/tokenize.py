r"""Splitting captions into words as the Penn Treebank does, without Java.

The COCO caption evaluation code tokenises with Stanford's ``PTBTokenizer`` (CoreNLP 3.4.1), lower-cases, and drops
punctuation; scores move in the third digit if anything else is done. :func:`tokenize` describes the same language as a
list of token classes: at each place the class with the longest match wins, including its trailing context, and the first
of equal ones. It was written from the tokens that the Java program prints, and the tests hold it to a table of recorded
captions; see :mod:`rankscope.scores.java` for the program itself.

On the 202,654 captions of COCO's val2014 no token differs. Known to differ: words with combining marks outside
U+0300–U+036F (Hindi, Arabic points), ``al.`` followed closely by a letter, and entities in mixed case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

PUNCTUATION = frozenset(
    ["''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"]
)
"""The tokens that the evaluation code drops. It compares lower-cased tokens with these, so brackets stay."""

_BREAKS = re.compile("[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]")


def one_line(text: str) -> str:
    r"""The text with everything that some reader takes for the end of a line made a space.

    Newlines, vertical tabs, form feeds, U+0085, U+2028 and U+2029 would shift all later captions of a file by one.
    """
    return _BREAKS.sub(" ", text)


_ASTRAL = r"\U00010000-\U0010ffff"
_LETTER = (
    r"[^\W\d_\u00b2\u00b3\u00b9\u00bc-\u00be\u2070\u2074-\u208e\u2150-\u2189"
    rf"\u2460-\u249b\u24ea-\u24ff\u2776-\u2793{_ASTRAL}]"
)
_DIGIT = rf"[^\D{_ASTRAL}]"
_SPACE = r"[ \t\u00a0\u2000-\u200a\u3000]"
_SPACENL = r"[ \t\u00a0\u2000-\u200a\u3000\n]"
_APOS = r"(?:['\u0092\u2019]|(?i:&apos;))"
_QUOTE = r"(?:['\u0092\u2019\u0091\u2018\u201b]|(?i:&apos;))"
_PART = rf"(?:{_LETTER}|(?i:&[aeiou](?:acute|grave|uml);)|[\u00ad\u0300-\u036f])"
_WORD = rf"{_PART}(?:{_PART}|{_DIGIT})*(?:[.!?]{_PART}(?:{_PART}|{_DIGIT})*)*"
_ALNUM = rf"(?:{_LETTER}|{_DIGIT})"
_REDUCED = rf"{_APOS}(?:[msdMSD]|(?i:re|ve|ll))"
_NUMBER = rf"(?:{_DIGIT}*(?:[.:,\u00ad]{_DIGIT}+)+|{_DIGIT}+)"
_THING = rf"(?:[dDoOlL]{_QUOTE}{_ALNUM})?{_ALNUM}+"
_NAME = r"[A-Za-z][A-Za-z0-9_:.\-]*"
_BLANK = r"[ \u00a0]*"
_VALUE = r"(?:\"[^\n\"]*\"|'[^\n']*')"
_MAIL, _MAIL_PART = r"[^ \t\n\f\r\"<>|()\u00a0]", r"[^ \t\n\f\r\"<>|().\u00a0]"
_ACRONYM = r"(?:(?i:(?:canada|sino|korean|eu|japan|non)-u\.s|u\.s\.-(?:u\.k|u\.s\.s\.r))|[A-Za-z](?:\.[A-Za-z])+)"
_SHORT = (
    "a.k.a adj adm adv al ala alex apr ariz assn assoc asst atty attys aug ave bancorp bhd bldg blvd brig bros calif "
    "capt cf cie cmdr co col colo comdr conn corp cos cpl ct dak dec dept det dr drs ed.d elec ens esq est etc ext "
    "feb fla fri ft ga gen gov govs hon inc ind insp intl invt jan jos jr jul jun kan kans ky lieut lt ltd maj mar md "
    "messrs mfg mich minn mlle mme mo mon mont mr mrs ms msgr mt mtg natl neb nev nov oct okla penn pfc ph ph.d plc "
    "ppte ppty pptys pres prof profs pte ptes pty ptys pvt rd rep reps rev rt sen sens sep sept seq sfc sgt spc sq sr "
    "st ste supt supts sys tel tenn thu treas tue tues univ va vs vt wed wis wisc wm wyo"
)
_NUMBERED = "art ca fig figs no nos op pp prop"


def _any(words: Iterable[str]) -> str:
    return "(?i:" + "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True)) + ")"


_OPENERS = (
    "About|According|Additionally|After|An|A|As|At|But|Earlier|He|Her|Here|However|If|In|It|Last|Many|More|Mr\\.|Ms\\.|"
    "Now|Once|One|Other|Our|She|Since|So|Some|Such|That|The|Then|There|These|They|This|We|When|While|What|Yet|You"
)
_CLASSES: tuple[tuple[str, str], ...] = (
    # (token, trailing context), in order of precedence
    (r"(?i:can)", "(?i:not)"),
    (r"(?i:gon|got|lem|gim|wan)", "(?i:(?<=gon)na|(?<=got)ta|(?<=lem)me|(?<=gim)me|(?<=wan)na)"),
    (r"(?i:'t)", "(?i:is|was)"),
    (
        rf"<(?:[!?][A-Za-z\-][^>\n]*|/{_NAME}{_BLANK}|{_NAME}(?:[ \u00a0]+{_NAME}(?:{_BLANK}={_BLANK}{_VALUE})?)*{_BLANK}/?)>",
        "",
    ),
    (r"(?i:&(?:md|mdash|ndash);)|[\u0096\u0097\u2013-\u2015]", ""),
    (r"(?i:&amp;)", ""),
    (r"(?i:&(?:ht|tl|ur|lr|qc|ql|qr|odq|cdq|#[0-9]+);)", ""),
    (_WORD, _REDUCED),
    (r"[A-Za-z\u00ad]*[A-MO-Za-mo-z]\u00ad*", rf"(?i:n{_QUOTE}t)"),
    (_WORD, ""),
    (rf"(?i:{_APOS}n{_APOS}?)", ""),
    (rf"[lLdDjJ]{_APOS}", ""),
    (rf"(?i:(?:dunkin|somethin|ol){_APOS})", ""),
    (rf"(?i:{_APOS}em)", ""),
    (rf"[A-HJ-XZn]{_QUOTE}{_LETTER}{{2,}}", ""),
    (rf"{_APOS}[2-9]0(?i:s)", ""),
    (rf"(?i:{_APOS}till?|{_APOS}cause)", ""),
    (rf"{_LETTER}+[aeiouyAEIOUY]{_QUOTE}[aeiouA-Z]{_LETTER}*", ""),
    (r"(?i:cont'd\.?|'twas|nor'easter|c'mon|e'er|s'mores|ev'ry|li'l|nat'l|o'o)", ""),
    (rf"[yY]{_APOS}", _LETTER),
    (r"(?i:https?)://[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},\-]", ""),
    (
        r"(?i:www)\.(?:[^ \t\n\f\r\"<>|.!?(){},]+\.)+[a-zA-Z]{2,4}(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},\-])?",
        "",
    ),
    (
        r"(?:[^ \t\n\f\r\"`'!(){},-_$|]+\.)+(?i:com|net|org|edu)"
        r"(?:/[^ \t\n\f\r\"<>|()]+[^ \t\n\f\r\"<>|.!?(){},\-])?",
        "",
    ),
    (rf"<?[a-zA-Z0-9]{_MAIL}*@(?:{_MAIL_PART}+\.)*{_MAIL_PART}+>?", ""),
    (r"@[a-zA-Z_][a-zA-Z_0-9]*", ""),
    (rf"#{_LETTER}+", ""),
    (_REDUCED, "[^A-Za-z]"),
    (rf"(?i:n{_QUOTE}t)", ""),
    (rf"{_DIGIT}{{1,2}}[\-/]{_DIGIT}{{1,2}}[\-/]{_DIGIT}{{2,4}}", ""),
    (rf"[\-+]?{_NUMBER}", ""),
    (r"[\u207a\u207b\u208a\u208b]?(?:[\u2070\u00b9\u00b2\u00b3\u2074-\u2079]+|[\u2080-\u2089]+)", ""),
    (rf"(?:{_DIGIT}{{1,4}}[\- \u00a0])?{_DIGIT}{{1,4}}(?:\\?/|\u2044){_DIGIT}{{1,4}}", ""),
    (r"[\u00bc-\u00be\u2153-\u215e]", ""),
    (
        rf"(?i:-(?:rrb|lrb|rcb|lcb|rsb|lsb)-|c\.d\.s|pro-|anti-|s(?:&|&amp;)p-500|s(?:&|&amp;)ls|cap{_APOS}n|c{_APOS}est)",
        "",
    ),
    (r"[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}(?:\\?/[A-Za-z0-9]+(?:-[A-Za-z]+){0,2}){1,2}", ""),
    (r"(?:[A-Z]*\$|#)", ""),
    (r"[\u00a2-\u00a5\u0080\u20a0\u20ac\u20a4\u060b\u0e3f\uffe0\uffe1\uffe5\uffe6]", ""),
    (
        rf"(?:{_any(_SHORT.split())}|(?:A(?i:rk|z)|D(?i:el)|I(?i:ll)|L(?i:a)|M(?i:ass|iss)|O(?i:re)|P(?i:a)|T(?i:ex)|W(?i:ash))|{_ACRONYM}|[A-Za-z])\.",
        "",
    ),
    (rf"{_any(_NUMBERED.split())}\.", rf"{_SPACE}?{_DIGIT}"),
    (r"[A-Za-z]", rf"\.{_SPACENL}+(?:{_OPENERS}){_SPACENL}"),
    (_ACRONYM, _SPACENL),
    (rf"{_APOS}[0-9][0-9]", _SPACENL),
    (rf"{_WORD}\.", "[,;:\u3001]"),
    (
        r"(?:\([0-9]{2,3}\)[ \u00a0]?|(?:\+\+?)?(?:[0-9]{2,4}[\- \u00a0])?[0-9]{2,4}[\- \u00a0])[0-9]{3,4}[\- \u00a0]?[0-9]{3,5}",
        "",
    ),
    (r"(?:(?:\+\+?)?[0-9]{2,4}\.)?[0-9]{2,4}\.[0-9]{3,4}\.[0-9]{3,5}", ""),
    (r"\"|(?i:&quot;)", ""),
    (r"[<\[]|(?i:&lt;)|[>\]]|(?i:&gt;)|[{}()]", ""),
    (r"[<>]?[:;=][\-o*']?[()DPdpO\\{@|\[\]]", "[^A-Za-z0-9]"),
    (r"[\-^x=~<>']_[\-^x=~<>']|\([\-^x=~<>'][_.]?[\-^x=~<>']\)|\([\^x=~<>']-[\^x=~<>'`]\)", ""),
    (r"-+", ""),
    (r"\.{3,5}|(?:\.[ \u00a0]){2,4}\.|[\u0085\u2026]", ""),
    (r"@+|#+|_+|\*+|(?:\\\*){1,3}", ""),
    (r"[,;:\u3001]|[?!]+|[.=/\u00a1\u00bf\u037e\u0589\u061f\u06d4\u0700-\u0702\u07fa\u3002]", ""),
    (rf"[A-Za-z0-9][A-Za-z0-9.,\u00ad]*(?:-(?:{_ACRONYM}\.|[A-Za-z0-9\u00ad]+))+", ""),
    (rf"{_THING}(?:[\-_\u058a\u2010\u2011]{_THING})*", ""),
    (rf"{_THING}(?:[\-_\u058a\u2010\u2011]{_THING})*\.", "[,;:\u3001]"),
    (r"(?i:c\+\+|c#|f#)", ""),
    (r"[A-Z]+(?:(?:[+&]|(?i:&amp;))[A-Z]+)+", ""),
    (r"'", r"[A-Za-z][^ \t\n\r\u00a0]"),
    (_REDUCED, ""),
    (rf"''|{_APOS}|[`\u2018-\u201f\u0091-\u0094\u2039\u203a\u00ab\u00bb]{{1,2}}", ""),
    (r"<<|>>", ""),
    (
        r"[+%&~^|\\\u00a6-\u00a9\u00ac\u00ae-\u00b4\u00b6-\u00b8\u00d7\u00f7\u2016\u2017\u2020-\u2023\u2030-\u2038"
        r"\u203b\u203e-\u2042\u2044\u207a-\u207f\u208a-\u208e\u2100-\u214f\u2190-\u2bff\u3012\u30fb\uff01-\uff0f"
        r"\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65]",
        "",
    ),
    (r"(?i:&nbsp;)", ""),
)
_RULES = tuple(re.compile(f"({token}){context}") for token, context in _CLASSES)
_DIVIDED = frozenset({"cannot", "gonna", "gotta", "lemme", "gimme", "wanna"})
_ABBREVIATED = frozenset(f"{_SHORT} {_NUMBERED} ark az del ill la mass miss ore pa tex wash".split())
_WORDS = re.compile("[A-Za-z ]*")
_WHOLE_WORD = re.compile(rf"(?!(?i:{'|'.join(sorted(_DIVIDED))}) )([A-Za-z]{{2,}}) +")
_WRITTEN = {
    "¼": "1/4", "½": "1/2", "¾": "3/4", "⅓": "1/3", "⅔": "2/3", "¢": "cents", "£": "#", "€": "$", "¤": "$", "₠": "$",
    "\x80": "$", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-", '"': "''", "…": "...", "\x85": "...",
    "\xad": "-", "&lt;": "<", "&gt;": ">", "&quot;": "''", "&apos;": "'", "&nbsp;": "",
}  # fmt: skip
_DASHES = re.compile(r"-{3,4}|&(?:md|mdash|ndash);|[\x96\x97–—―]")
_DOTS = re.compile(r"\.{3,5}|(?:\.[ \xa0])+\.")
_QUOTED = re.compile(r"[`'‘’‛“”‹›«»\x91-\x94]{1,2}")
_ENDED = re.compile(rf"{_QUOTE}(?:[smd]|re|ve|ll)|n{_QUOTE}t")
_QUOTES = str.maketrans(
    {"‘": "`", "‛": "`", "‹": "`", "\x91": "`", "’": "'", "›": "'", "\x92": "'", "“": "``", "«": "``", "\x93": "``"}
    | {"”": "''", "»": "''", "\x94": "''"}
)
_INSIDE = {"&amp;": "&", "\xad": "", " ": "\xa0", "(": "-lrb-", ")": "-rrb-"}
_INSIDE_ANY = re.compile("|".join(map(re.escape, _INSIDE)))


def _spell(token: str) -> str:
    """A token in the treebank's spelling, lower-cased; empty for a space."""
    token = token.lower()
    if token in _WRITTEN:
        return _WRITTEN[token]
    if _DASHES.fullmatch(token):
        return "--"
    if _DOTS.fullmatch(token):
        return "..."
    if _QUOTED.fullmatch(token):
        return token.translate(_QUOTES)
    if _ENDED.fullmatch(token):
        return token.translate(_QUOTES).replace("&apos;", "'")
    return _INSIDE_ANY.sub(lambda found: _INSIDE[found.group()], token)


def _split(text: str, stop: int) -> list[str]:
    """The tokens that begin before ``stop``, as written in the text; characters of no class are left out."""
    tokens, start = [], 0
    while start < stop:
        if whole := _WHOLE_WORD.match(text, start):
            tokens.append(whole[1])
            start = whole.end()
            continue
        # `reach` is where a match ends with its context, which decides between classes; `end` is where the token ends.
        reach, end = start, start + 1
        for rule in _RULES:
            found = rule.match(text, start)
            if found and found.end() > reach:
                reach, end = found.end(), found.end(1)
        if reach > start:
            tokens.append(text[start:end])
        start = end
    return tokens


def _plain(line: str) -> list[str] | None:
    """The tokens of a line of plain words with or without a period, by a quicker way; None for any other line."""
    body, period, _ = line.rstrip(" ").partition(".")
    last = body.rpartition(" ")[2].lower()
    if not _WORDS.fullmatch(body) or len(line.rstrip(" ")) > len(body) + len(period):
        return None
    words = body.lower().split()
    if (period and last and (len(last) == 1 or last in _ABBREVIATED)) or not _DIVIDED.isdisjoint(words):
        return None
    return words


def tokenize(caption: str, *, following: str | None = "") -> list[str]:
    r"""The words of a caption: Penn Treebank tokens in lower case, without punctuation.

    Args:
        caption: a text; anything that ends a line counts as a space.
        following: the next line of the file, None at its end. It matters where a caption ends in a single letter and
            a period, which the treebank keeps as one token unless a new sentence follows.

    Returns:
        ``(t,)`` tokens without spaces; some hold a no-break space, such as ``1\u00a01/2``. Empty for an empty caption.
    """
    line = one_line(caption)
    plain = _plain(line)
    if plain is not None:
        return plain
    after = "" if following is None else f"\n{one_line(following)}\n"
    spelled = (_spell(token) for token in _split(line + after, len(line)))
    return [token for token in spelled if token and token not in PUNCTUATION]


def tokenized(captions: Sequence[str]) -> list[str]:
    """Every caption as its tokens joined by single spaces, the form that the metrics take.

    The captions are read as the lines of one file, in their order, as the evaluation code reads them.
    """
    lines = [*captions, None]
    return [" ".join(tokenize(line, following=after)) for line, after in zip(captions, lines[1:], strict=True)]

"""Words that mean something by themselves, and words that mean nothing without others. Lower case."""

from __future__ import annotations


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety"
)
ORDINALS = (
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth thirtieth"
)
MONTHS = (
    "january february march april may june july august september october november december "
    "jan feb mar apr jun jul aug sept sep oct nov dec"
)
WEEKDAYS = "monday tuesday wednesday thursday friday saturday sunday"

STOP_WORDS = words(
    """
    i you he she it we they me him her us them my your his its our their mine yours this that these those there here
    a an the some any each every all both few many much more most other another such own same
    is are am was were be been being have has had having do does did doing done will would shall should can could may
    might must cannot let lets got get gets getting go goes going gone come comes make makes made take takes took give
    say says said tell told ask asks asked know knows think thinks want wants wanted need needs like likes please thank
    thanks sorry hello hi hey bye goodbye yes yeah yep no nope not ok okay sure right well just really very too also so
    then than as at by for from in into of off on onto out over to under up with without about after before between
    through until and or but if because while when where which who whom whose why how what
    again still only even ever never always now today anything something nothing everything someone anyone else
    one way lot bit kind sort thing things good great fine nice moment maybe perhaps actually exactly correct
    help see look call called calling speak talk hear heard mean means put keep try trying much back down
    could don't can't won't isn't it's i'm i'd i'll i've you're that's what's there's let's didn't doesn't
    welcome afraid happy course
    """
)
"""They tell no topic and no name."""
DATE_WORDS = words(f"{MONTHS} {WEEKDAYS} {UNITS} {ORDINALS}")
NEGATIONS = words(
    """
    no not never cannot without except neither don't doesn't didn't isn't aren't wasn't weren't won't can't couldn't
    shouldn't wouldn't haven't hasn't mustn't
    """
)
EMPTY_NOT = words(
    """
    sure really know think mind worry understand get catch hear problem idea thank thanks worries matter at that it one
    i you we he she they the this my not yet quite exactly please no yes need
    """
)
"""A negation of these denies nothing worth knowing: "not sure"."""
CLAUSE_WORDS = words("and but or because so if when which who while i you we")
"""They begin another clause."""

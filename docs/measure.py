"""Everything that README.md and docs/results.md print, measured anew: the one script that touches
the test tasks, once a release.

    python docs/measure.py FOLDER --data DIR [--only NAME,NAME]

FOLDER takes the runs and one JSON file a table. A step whose outcome is there already is left out,
so the script can be stopped and started again. DIR is the folder of real data (README: RETRO_DATA),
with alfworld_games.tgz unpacked in it or beside it. Then `python docs/build.py FOLDER` writes the
pages. On two cores all of it takes hours.
"""

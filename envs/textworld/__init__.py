"""Two games of TextWorldExpress. Read `engine`, `observer`, `demonstrations`."""

from envs.textworld.engine import TextWorld as TextWorld

"""The frozen teacher and what it remembers."""

from understudy.teacher.frozen import Teacher as Teacher

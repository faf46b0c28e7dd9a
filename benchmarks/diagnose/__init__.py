"""How well `sf.watch` finds what is wrong, and how often it warns of what is sound: two suites and their measuring."""

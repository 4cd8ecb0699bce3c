"""The field set: models as they lie in public packages, what they are asked, where maps fall.

For `field.py` (every kind of answer): `case` is one row, `cases` lists them, `boxes`, `regions`,
`characters`, `likeness` and `values` explain and measure, `exported` has the files of random
weights, and `rows` keeps what was measured and makes the table. For `field_classifiers.py`
(classifiers alone): `classifiers`, their `pictures` and `scenes`, and the `proof` that one looks.
For `field_exports.py` (files of random weights): `weights`, and `export_*` for the frameworks.
`packages`, `drawing` and `measures` are for all.
"""

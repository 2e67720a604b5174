from __future__ import annotations

from atomfoundry.results.label_lineage import frame_consequences, frame_lineage
from atomfoundry.results.lineage_formats import to_text


def test_show(bench):
    db, project = bench.db, bench.project
    f = bench.frames["crystals"][0]
    print(to_text(frame_lineage(db, project, f)))
    for f in [*bench.frames["crystals"], bench.frames["molecules"][0], bench.frames["atom"]]:
        print(to_text(frame_consequences(db, project, f)))

"""Find the cases of a dataset whose listing has faults elsewhere, so that one bad case costs one case."""

from __future__ import annotations

from pathlib import Path

from stu_pipeline.datasets.cases import Case
from stu_pipeline.datasets.dataset_fields import check_case_id
from stu_pipeline.datasets.dataset_json import DatasetJson
from stu_pipeline.datasets.endings import split_ending
from stu_pipeline.datasets.listing import list_folder, split_channel


def find_sound_cases(folder: Path, description: DatasetJson) -> list[Case]:
    """List the cases that have all their channels and a label map, sorted by id.

    With one channel, an image without `_0000` counts, too: what is wrong with it is its name only.
    """
    if description.listed_cases is not None:
        return [
            Case(id=case_id, image_files=files.images, label_file=files.label)
            for case_id, files in sorted(description.listed_cases.items())
            if all(path.is_file() for path in (*files.images, files.label))
        ]
    channels: dict[str, dict[int, Path]] = {}
    for name in list_folder(folder / "imagesTr").image_names:
        stem, ending = split_ending(name)
        case_id, channel = split_channel(stem)
        if channel is None and description.num_channels == 1:
            channel = 0
        if ending == description.file_ending and channel is not None:
            channels.setdefault(case_id, {})[channel] = folder / "imagesTr" / name
    labels = {}
    for name in list_folder(folder / "labelsTr").image_names:
        stem, ending = split_ending(name)
        if ending == description.file_ending:
            labels[stem] = folder / "labelsTr" / name
    expected = set(range(description.num_channels))
    return [
        Case(id=case_id, image_files=tuple(own[index] for index in sorted(own)), label_file=labels[case_id])
        for case_id, own in sorted(channels.items())
        if case_id in labels and set(own) == expected and not check_case_id(case_id)
    ]

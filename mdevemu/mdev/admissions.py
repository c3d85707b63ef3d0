"""Where each command needs a place while it is under way: by the work queue of its slice."""

from mdevemu.accel.admission import Admission, Places
from mdevemu.profile import AcceleratorSpec


def admissions(spec: AcceleratorSpec) -> dict[str, list[Admission]]:
    """For each work queue: its own, its group's, the read buffer limit's, and that of all groups.

    Those that it shares with other queues are the same objects there.
    """
    limit = Places(spec.read_buffer_limit) if spec.read_buffer_limit else None
    total = Places(spec.read_buffers) if spec.read_buffers else None
    of_group: dict[str, list[Admission]] = {}
    for group in spec.groups:
        of_group[group.name] = mine = []
        if group.read_buffers:
            mine.append(Admission(Places(group.read_buffers)))
        if limit and group.limited:
            mine.append(Admission(limit, group.reserved))
        if total:
            mine.append(Admission(total, group.reserved))
    return {
        name: [Admission(Places(queue.places)), *of_group[queue.group]]
        for name, queue in spec.work_queues.items()
    }

"""Where tenants' drivers run: in VMs, or in processes of this machine."""

import contextlib
import subprocess
import sys
from typing import Protocol

from hostctl.errors import TimedOut, VmError
from hostctl.guest import Agent, AgentGone, AgentRefused, Pending
from hostctl.lab import Lab
from hostctl.processes import spawn, stop, tail
from hostctl.tables import Table

_PATIENCE = 2.0
_START_SECONDS = 20.0
_CHECK_SECONDS = 300.0


class Driver:
    """A tenant's driver, which runs checks on the tenant's mdev.  One thread uses it at a time.

    Attributes:
        name: the mdev's.
        place: where the driver runs, in words.
    """

    def __init__(self, name: str, place: str, agent: Agent, base: int) -> None:
        """Take the device; its buffers get Iovas from ``base`` up.  Owns ``agent``."""
        self.name = name
        self.place = place
        self._agent = agent
        agent.bind(base=base)

    def check(self, check: str, **arguments: object) -> Table:
        """Run a check and return its facts."""
        return self.finish(self.start(check, **arguments))

    def start(self, check: str, **arguments: object) -> Pending:
        """Begin a check; what it is given must fit JSON."""
        return self._agent.start_check(check, arguments)

    def running(self, check: Pending) -> bool:
        """The check has not come to its end."""
        self._agent.ping()  # whatever came before the answer is taken with it
        return not check.done

    def stop(self, check: Pending) -> None:
        """Ask a check to come to its end, if it has not."""
        with contextlib.suppress(AgentRefused):
            self._agent.stop(check)

    def finish(self, check: Pending) -> Table:
        """Wait for a check's facts."""
        facts = check.result(_CHECK_SECONDS)
        return Table(f"{check.name} of {self.name}", facts, self._nonsense)

    def _nonsense(self, where: str, wrong: str) -> VmError:
        return VmError(self.name, f"its driver's facts make no sense: {where}: {wrong}")

    def close(self) -> None:
        """Hang up."""
        self._agent.close()


class Stage(Protocol):
    """Somewhere for drivers to run.

    Attributes:
        variant: "vm" or "no-vm".
        accelerator: how QEMU runs guests; empty if there are none.
    """

    variant: str
    accelerator: str

    def enter(self, name: str, base: int) -> Driver:
        """A driver for the mdev of that name."""
        ...

    def leave(self, driver: Driver) -> None:
        """The tenant is gone: its driver, and the VM that it ran in."""
        ...

    def close(self) -> None:
        """Every driver is gone."""
        ...


class Processes:
    """Drivers in processes of this machine, over vfio-user sockets."""

    variant = "no-vm"
    accelerator = ""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._drivers: dict[str, Driver] = {}

    def enter(self, name: str, base: int) -> Driver:
        """See ``Stage``."""
        folder = self._lab.folder
        path, log = folder.file(name, "tenant.sock"), folder.file(name, "tenant.log")
        argv = [sys.executable, "-m", "hostctl.demo.tenant", self._lab.mdevs[name].socket]
        child = spawn([*argv, str(path)], log=log)
        self._children[name] = child
        place = f"process {child.pid}"
        try:
            agent = Agent(path, timeout=_START_SECONDS)
        except (AgentGone, TimedOut) as error:
            said = {"its stderr": tail(log)}
            raise VmError(name, f"its driver does not start: {error}", argv, said) from None
        self._drivers[name] = driver = Driver(name, place, agent, base)
        return driver

    def leave(self, driver: Driver) -> None:
        """See ``Stage``."""
        self._drivers.pop(driver.name).close()
        stop(self._children.pop(driver.name), _PATIENCE)

    def close(self) -> None:
        """See ``Stage``."""
        for driver in list(self._drivers.values()):
            driver.close()
        self._drivers.clear()
        for child in self._children.values():
            stop(child, _PATIENCE)
        self._children.clear()


class Vms:
    """Drivers in the lab's VMs; one for an mdev without a VM runs in a process."""

    variant = "vm"

    def __init__(self, lab: Lab, accelerator: str) -> None:
        self._lab = lab
        self._outside = Processes(lab)
        self._drivers: dict[str, Driver] = {}
        self.accelerator = accelerator

    def enter(self, name: str, base: int) -> Driver:
        """See ``Stage``."""
        vm = next((vm for vm in self._lab.spec.vms if name in vm.mdevs), None)
        if vm is None:
            return self._outside.enter(name, base)
        agent = Agent(self._lab.vms[vm.name].plan.agent)
        driver = Driver(name, f"VM {vm.name}", agent, base)
        self._drivers[name] = driver
        return driver

    def leave(self, driver: Driver) -> None:
        """See ``Stage``."""
        if driver.name not in self._drivers:
            self._outside.leave(driver)
            return
        self._drivers.pop(driver.name).close()
        for vm in self._lab.spec.vms:
            if driver.name in vm.mdevs:
                self._lab.stop_vm(vm.name)

    def close(self) -> None:
        """See ``Stage``."""
        for driver in self._drivers.values():
            driver.close()
        self._drivers.clear()
        self._outside.close()

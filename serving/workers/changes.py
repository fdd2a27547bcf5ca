"""Changes of the models that answer, in this process and in its peers: in all of them or in none.

A two-phase commit: one worker at a time changes them. It loads what is new, asks the others to do the same (prepare),
and only when all have done it the new set answers (commit): a file that one cannot load changes nothing anywhere.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from serving import process
from serving.scheduling.engine import Engine
from serving.scheduling.model_set import ModelSet
from serving.scheduling.models import Models, NoModel
from serving.workers.peers import PERIOD, Peers, Values
from xtrain.errors import ModelFileError, OutputError, XtrainError

PAUSE = 5.0  # seconds after what went wrong and is tried again
PATIENCE = 60.0  # seconds for another worker to load what this one has loaded, and ten times what that took it


class Changes:
    """Changes the models of this process, and follows the changes of its peers."""

    def __init__(self, models: Models, peers: Peers | None = None) -> None:
        """Make no change yet; without peers the process is alone."""
        self.models, self.peers = models, peers
        self._retiring = set[asyncio.Task[None]]()  # the loop itself keeps no task alive

    @property
    def is_first(self) -> bool:
        """Whether this worker speaks for all."""
        return self.peers is None or self.peers.index == 1

    @property
    def workers(self) -> list[int]:
        """The workers that run, in all of which a change is made."""
        if self.peers is None:
            return [1]
        return sorted([self.peers.index, *(told["worker"] for told in self.peers.others())])

    @asynccontextmanager
    async def exclusive(self) -> AsyncIterator[ModelSet]:
        """Give what answers now; until the block ends nobody else changes it.

        Raises:
            NoModel: this worker could not load what another one has committed.
        """
        async with AsyncExitStack() as held:
            if self.peers is not None:
                await held.enter_async_context(self.peers.lock())
                # Whoever had the lock may have been killed after its decision; what it decided holds.
                if (state := self.peers.state())["number"] > self.peers.follows:
                    await self._follow(self.peers, state, None)
                    if state["number"] > self.peers.follows:
                        raise NoModel("this worker does not answer by the models of the others yet; try again")
            await held.enter_async_context(self.models.lock)
            yield self.models.served()

    async def make(self, wanted: ModelSet) -> ModelSet:
        """Let `wanted` answer from now on, in all workers; called within `exclusive`.

        Returns:
            it, with the digests of all its files.

        Raises:
            ModelFileError, ConfigError: as `Models.prepare`, here or in another worker; nothing has changed.
            OutputError: the others cannot be told.
        """
        began = time.monotonic()
        wanted, engines = await asyncio.to_thread(self.models.prepare, wanted)
        if self.peers is None:
            self._apply(wanted, engines)
        else:
            await self._make_in_all(self.peers, wanted, engines, PATIENCE + 10 * (time.monotonic() - began))
        await self.keep()
        return wanted

    async def _make_in_all(self, peers: Peers, wanted: ModelSet, engines: list[Engine], patience: float) -> None:
        """Let all workers answer by `wanted`, which this one has prepared."""
        identifier = uuid.uuid4().hex
        try:
            peers.propose(identifier, wanted.as_json())
            await self._all_prepared(peers, identifier, patience)
            number = peers.commit(identifier, wanted.as_json())
        except BaseException:
            peers.abort()
            await asyncio.gather(*(engine.close() for engine in engines))
            raise
        self._apply(wanted, engines)  # from here on it is done, whatever can be told
        with suppress(OutputError):
            peers.tell(follows=number)
        await self._all_follow(peers, number)

    async def keep(self) -> None:
        """Write down what answers; where the repository is read-only, a restart begins as the server was started."""
        if reason := await asyncio.to_thread(self.models.keep_selection):
            process.say(f"note: what is served now is not kept for a restart: {reason}")

    def _apply(self, wanted: ModelSet, engines: list[Engine]) -> None:
        self.retire(self.models.apply(wanted, engines))

    def retire(self, engines: Iterable[Engine]) -> None:
        """Close engines once their last requests are over."""
        loop = asyncio.get_running_loop()
        for engine in engines:
            task = loop.create_task(engine.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
            # A second later, when nothing refers to it any more.
            task.add_done_callback(lambda _: loop.call_later(1, process.freeze_garbage_collector))

    async def _all_prepared(self, peers: Peers, identifier: str, patience: float) -> None:
        """Wait until every other worker that runs has loaded what was proposed.

        Raises:
            ModelFileError: one of them could not, or takes too long.
        """
        end = time.monotonic() + patience
        while waiting := [told for told in peers.others() if told["prepared"] != identifier]:
            if time.monotonic() > end:
                raise ModelFileError(f"worker {waiting[0]['worker']} takes too long; nothing was changed in any worker")
            await asyncio.sleep(PERIOD / 2)
        for told in peers.others():
            if told["fault"]:
                raise ModelFileError(f"worker {told['worker']}: {told['fault']}; nothing was changed in any worker")

    async def _all_follow(self, peers: Peers, number: int) -> None:
        """Wait until every other worker that runs answers by the state; whoever asks next meets it everywhere."""
        end = time.monotonic() + PATIENCE
        while behind := [told["worker"] for told in peers.others() if told["follows"] < number]:
            if time.monotonic() > end:
                process.say(f"note: worker {behind[0]} does not follow; it answers by the models before")
                return
            await asyncio.sleep(PERIOD / 2)

    def begin(self) -> None:
        """Take up what the peers answer by, after the models were loaded as at a start; blocks.

        The first worker says what that is, file by file: should one be replaced without a word (`SIGHUP`), a worker
        that is started again does not answer by another model than the rest.

        Raises:
            ModelFileError, ConfigError: it cannot be loaded, or is not what it was.
        """
        if self.peers is None:
            return
        with self.peers.lock_now():
            if not self.peers.state()["number"]:
                self.peers.commit("", self.models.served().as_json())
                self.peers.tell(follows=1)
        while (state := self.peers.state())["number"] > self.peers.follows:
            for engine in self.models.apply(*self.models.prepare(ModelSet.from_json(state["wanted"]))):
                engine.end_thread()
            self.peers.tell(follows=state["number"])

    async def follow(self) -> None:
        """Prepare what another worker proposes, and follow what was decided, until cancelled."""
        if self.peers is None:
            return
        prepared: _Prepared | None = None
        while True:
            await asyncio.sleep(PERIOD)
            try:
                prepared = await self._look(self.peers, prepared)
            except Exception:  # it must look again
                logging.getLogger(__name__).exception("the other workers cannot be followed")
                await asyncio.sleep(PAUSE)

    async def _look(self, peers: Peers, prepared: "_Prepared | None") -> "_Prepared | None":
        """Do what the files ask for; return what is prepared and not decided yet."""
        proposal, state = peers.proposal(), peers.state()  # in this order: a proposal goes once it is decided
        if state["number"] > peers.follows:
            await self._follow(peers, state, prepared)
            return None
        identifier = "" if proposal is None else proposal["id"]
        if prepared is not None and prepared.identifier != identifier:
            await asyncio.gather(*(engine.close() for engine in prepared.engines))  # it was given up
            prepared = None
        if proposal is not None and prepared is None and not peers.has_seen(identifier):
            return await self._prepare(peers, proposal)
        return prepared

    async def _prepare(self, peers: Peers, proposal: Values) -> "_Prepared | None":
        found, fault = None, ""
        async with self.models.lock:
            try:
                wanted = await asyncio.to_thread(self.models.prepare, ModelSet.from_json(proposal["wanted"]))
                found = _Prepared(proposal["id"], *wanted)
            except Exception as error:  # whatever it is, the other must not wait for it
                fault = str(error) or type(error).__name__
        peers.tell(prepared=proposal["id"], fault=fault)
        return found

    async def _follow(self, peers: Peers, state: Values, prepared: "_Prepared | None") -> None:
        """Answer by a state that was decided, which this worker has prepared unless it has just been started."""
        async with self.models.lock:
            if peers.follows >= state["number"]:  # done while this waited for the lock
                for engine in prepared.engines if prepared is not None else ():
                    await engine.close()
                return
            if prepared is None or prepared.identifier != state["id"]:
                try:
                    wanted = await asyncio.to_thread(self.models.prepare, ModelSet.from_json(state["wanted"]))
                except XtrainError as error:
                    process.say(f"note: worker {peers.index} cannot follow the others ({error}); it tries again")
                    await asyncio.sleep(PAUSE)
                    return
                prepared = _Prepared(state["id"], *wanted)
            self._apply(prepared.wanted, prepared.engines)
            peers.tell(follows=state["number"])


@dataclass(frozen=True)
class _Prepared:
    """What another worker proposed, loaded."""

    identifier: str
    wanted: ModelSet
    engines: list[Engine]

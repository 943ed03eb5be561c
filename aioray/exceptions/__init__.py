"""Every error aioray raises, in one tree.

    RayError
    ├── RayTaskError                       user code raised; caught also as the user's own exception type
    ├── RayActorError
    │   ├── ActorDiedError                 it will never answer again
    │   │   ├── ActorConstructorError      (ours) also a RayTaskError, and caught as what the constructor raised
    │   │   └── ActorPlacementGroupRemoved
    │   └── ActorUnavailableError          it may answer later
    ├── TaskCancelledError
    │   └── TaskTimeoutError               (ours) its deadline passed; also a TimeoutError
    ├── WorkerCrashedError
    │   └── TaskPlacementGroupRemoved
    ├── NodeDiedError
    ├── GetTimeoutError                    also a TimeoutError
    ├── ObjectLostError
    │   ├── ObjectReconstructionFailedError
    │   │   ├── ObjectReconstructionFailedMaxAttemptsExceededError
    │   │   └── ObjectReconstructionFailedLineageEvictedError
    │   ├── OwnerDiedError
    │   ├── ObjectFreedError
    │   ├── ObjectFetchTimedOutError
    │   └── ReferenceCountingAssertionError    also an AssertionError
    ├── ObjectStoreFullError
    ├── OutOfDiskError
    ├── OutOfMemoryError
    ├── RuntimeEnvSetupError
    ├── PendingCallsLimitExceeded
    ├── TaskUnschedulableError
    ├── ActorUnschedulableError
    ├── ActorAlreadyExistsError            also a ValueError
    ├── AuthenticationError
    ├── AsyncioActorExit
    ├── ObjectRefStreamEndOfStreamError
    ├── UnserializableException            stands in for an exception that could not be pickled
    ├── RaySystemError                     our own fault
    │   ├── RayChannelError                a compiled graph has ended, or broke
    │   │   └── RayChannelTimeoutError     also a GetTimeoutError
    │   └── RayCgraphCapacityExceeded      too many of its passes are under way
    ├── SerializationError                 (ours) also a TypeError
    ├── BlockingCallError                  (ours) also a RuntimeError
    └── InvalidOptionError                 (ours) also a ValueError and a TypeError

Branch on the type and on the attributes, not on the text. The attributes are also in `args`, in the order of the
constructor's parameters, because that is what pickle rebuilds an exception from. Where an error is also a builtin one,
it is so that code which has never heard of aioray catches it too.
"""

from aioray.exceptions.errors import (
    ActorAlreadyExistsError,
    ActorDiedError,
    ActorPlacementGroupRemoved,
    ActorUnavailableError,
    ActorUnschedulableError,
    AsyncioActorExit,
    AuthenticationError,
    BlockingCallError,
    GetTimeoutError,
    InvalidOptionError,
    NodeDiedError,
    ObjectFetchTimedOutError,
    ObjectFreedError,
    ObjectLostError,
    ObjectReconstructionFailedError,
    ObjectReconstructionFailedLineageEvictedError,
    ObjectReconstructionFailedMaxAttemptsExceededError,
    ObjectRefStreamEndOfStreamError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    OwnerDiedError,
    PendingCallsLimitExceeded,
    RayActorError,
    RayCgraphCapacityExceeded,
    RayChannelError,
    RayChannelTimeoutError,
    RayError,
    RaySystemError,
    ReferenceCountingAssertionError,
    RuntimeEnvSetupError,
    SerializationError,
    TaskCancelledError,
    TaskPlacementGroupRemoved,
    TaskTimeoutError,
    TaskUnschedulableError,
    UnserializableException,
    WorkerCrashedError,
)
from aioray.exceptions.task_error import ActorConstructorError, RayTaskError

__all__ = [
    "ActorAlreadyExistsError",
    "ActorConstructorError",
    "ActorDiedError",
    "ActorPlacementGroupRemoved",
    "ActorUnavailableError",
    "ActorUnschedulableError",
    "AsyncioActorExit",
    "AuthenticationError",
    "BlockingCallError",
    "GetTimeoutError",
    "InvalidOptionError",
    "NodeDiedError",
    "ObjectFetchTimedOutError",
    "ObjectFreedError",
    "ObjectLostError",
    "ObjectReconstructionFailedError",
    "ObjectReconstructionFailedLineageEvictedError",
    "ObjectReconstructionFailedMaxAttemptsExceededError",
    "ObjectRefStreamEndOfStreamError",
    "ObjectStoreFullError",
    "OutOfDiskError",
    "OutOfMemoryError",
    "OwnerDiedError",
    "PendingCallsLimitExceeded",
    "RayActorError",
    "RayCgraphCapacityExceeded",
    "RayChannelError",
    "RayChannelTimeoutError",
    "RayError",
    "RaySystemError",
    "RayTaskError",
    "ReferenceCountingAssertionError",
    "RuntimeEnvSetupError",
    "SerializationError",
    "TaskCancelledError",
    "TaskPlacementGroupRemoved",
    "TaskTimeoutError",
    "TaskUnschedulableError",
    "UnserializableException",
    "WorkerCrashedError",
]

for _name in __all__:  # where it is written is nobody's business: this is where it is found, and what tracebacks say
    globals()[_name].__module__ = __name__
del _name

//! The scenarios: data.

use super::{clients::ClientFault, proxy::Network, servers::Kind};

/// Fault of a scenario.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// No fault, to see that the rig itself finds nothing.
    None,
    Killed,
    /// Killed, and the last commands of its log are lost, as by a crash of its machine.
    TailLost(usize),
    RestartedEmpty,
    Stopped,
    /// The network between nodes and server.
    Network(Network),
    ClientPause,
    ClientKill,
    ScriptFlush,
    /// A script that keeps the server busy as long as the fault lasts.
    Hog,
    FullMemory,
    EvictionChanged,
    /// A key of one account has another type.
    WrongType,
    /// A field of one account is no number.
    Malformed,
    PasswordRotated,
    /// Its clock is this many seconds off for a while.
    ClockMoved(i64),
    /// The link to the replica is cut, writes are acknowledged, and the master is killed.
    LaggingReplica,
    SentinelFailover,
    /// A partition: the nodes still reach the master, its replica and the Sentinels do not, so the
    /// replica is promoted.
    MinorityPartition,
    /// The old master comes back after another took over.
    OldMasterAlive,
    ClusterFailover(&'static str),
    ClusterMasterKilled,
    SlotsMove,
    ShardStopped,
    /// Killed this many times, anywhere.
    NodeKilled(u32),
    /// Killed just when an answer of the ledger is on its way to it.
    NodeKilledInCall(u32),
    NodeTerminated,
    NodeStopped,
    NodeRuntimeDropped,
    HandlerPanics,
    HandlerPanicAborts,
    /// Killed, and the journal's file is cut off.
    JournalTorn,
    /// Killed, and a bit of the journal's file is not what it was.
    JournalBitFlipped,
    /// Its disk is full.
    JournalDiskFull,
    /// Another process is started with the journal of one that runs.
    JournalTwice,
    /// Fault of HTTP clients.
    Client(ClientFault),
}

#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub servers: Kind,
    pub fault: Fault,
    /// How long it lasts, in milliseconds: from, to.
    pub lasts: (u64, u64),
    /// `true` if nodes have a journal.
    pub journal: bool,
    /// The ledger forgets holds, so the limit may be passed by what was on hold.
    pub may_overspend: bool,
    /// The most that may stay on hold, for ten minutes, because its node is gone.
    pub max_held: i64,
    /// `true` if one run of it is in every test run.
    pub is_quick: bool,
}

const fn one(name: &'static str, fault: Fault) -> Scenario {
    Scenario {
        name,
        servers: Kind::One("everysec"),
        fault,
        lasts: (500, 1_500),
        journal: false,
        may_overspend: false,
        max_held: 0,
        is_quick: true,
    }
}

const fn network(name: &'static str, network: Network) -> Scenario {
    one(name, Fault::Network(network))
}

const fn client(name: &'static str, fault: ClientFault) -> Scenario {
    one(name, Fault::Client(fault))
}

const fn node(name: &'static str, fault: Fault) -> Scenario {
    Scenario { max_held: i64::MAX, ..one(name, fault) }
}

const fn journal(name: &'static str, fault: Fault) -> Scenario {
    Scenario { journal: true, ..one(name, fault) }
}

const fn cluster(name: &'static str, fault: Fault) -> Scenario {
    Scenario { servers: Kind::Cluster, may_overspend: true, ..one(name, fault) }
}

const fn sentinel(name: &'static str, fault: Fault) -> Scenario {
    Scenario { servers: Kind::Sentinel, may_overspend: true, ..one(name, fault) }
}

const fn long(scenario: Scenario, lasts: (u64, u64)) -> Scenario {
    Scenario { lasts, is_quick: false, ..scenario }
}

const fn with_fsync(scenario: Scenario, fsync: &'static str) -> Scenario {
    Scenario { servers: Kind::One(fsync), ..scenario }
}

const fn clocked(name: &'static str, by: i64) -> Scenario {
    let scenario = one(name, Fault::ClockMoved(by));
    // Holds expire early by a clock that is ahead. libfaketime moves it.
    Scenario { servers: Kind::Clocked, may_overspend: by > 0, is_quick: false, ..scenario }
}

const fn forgets(scenario: Scenario) -> Scenario {
    Scenario { may_overspend: true, ..scenario }
}

impl Scenario {
    const fn journaled(self) -> Self {
        Self { journal: true, ..self }
    }

    /// The journal may not have a lease yet that has just begun, so its hold is left: two holds of
    /// a second at each kill. Without a journal it is about six.
    const fn killed(self, times: i64) -> Self {
        Self { max_held: times * 2 * 120_000, ..self }
    }
}

pub const SCENARIOS: &[Scenario] = &[
    one("no fault", Fault::None),
    one("Redis killed", Fault::Killed),
    with_fsync(one("Redis killed, fsync always", Fault::Killed), "always"),
    with_fsync(one("Redis killed, fsync no", Fault::Killed), "no"),
    forgets(one("Redis killed, the last 200 commands lost", Fault::TailLost(200))),
    forgets(one("Redis restarted empty", Fault::RestartedEmpty)),
    one("Redis stopped", Fault::Stopped),
    long(one("Redis stopped for 5 s", Fault::Stopped), (5_000, 5_500)),
    long(one("Redis stopped for 30 s", Fault::Stopped), (30_000, 31_000)),
    network("requests arrive late", Network::LateRequests),
    network("answers arrive late", Network::LateAnswers),
    network("answers are dropped", Network::DropsAnswers),
    network("requests are dropped", Network::DropsRequests),
    network("a black hole", Network::BlackHole),
    network("a byte a millisecond", Network::Trickle),
    network("resets in answers", Network::ResetsInAnswers),
    network("connections refused", Network::Refuses),
    one("CLIENT PAUSE", Fault::ClientPause),
    one("CLIENT KILL ten times a second", Fault::ClientKill),
    one("SCRIPT FLUSH in a loop", Fault::ScriptFlush),
    one("a script that hogs Redis", Fault::Hog),
    one("memory full", Fault::FullMemory),
    one("eviction policy changed", Fault::EvictionChanged),
    one("a key of another type", Fault::WrongType),
    one("a malformed field", Fault::Malformed),
    one("password rotated", Fault::PasswordRotated),
    clocked("the clock an hour ahead", 3_600),
    clocked("the clock an hour behind", -3_600),
    Scenario {
        servers: Kind::Pair,
        ..forgets(one("a lagging replica takes over", Fault::LaggingReplica))
    },
    sentinel("Sentinel's failover", Fault::SentinelFailover),
    long(sentinel("a master in the minority", Fault::MinorityPartition), (1_000, 2_000)),
    long(sentinel("the old master comes back", Fault::OldMasterAlive), (2_000, 3_000)),
    cluster("CLUSTER FAILOVER", Fault::ClusterFailover("")),
    cluster("CLUSTER FAILOVER FORCE", Fault::ClusterFailover("FORCE")),
    cluster("CLUSTER FAILOVER TAKEOVER", Fault::ClusterFailover("TAKEOVER")),
    long(cluster("a master of the cluster killed", Fault::ClusterMasterKilled), (500, 1_500)),
    long(cluster("slots move under load", Fault::SlotsMove), (500, 1_500)),
    long(cluster("a shard stopped", Fault::ShardStopped), (500, 900)),
    node("a node killed", Fault::NodeKilled(1)),
    long(node("a node killed 20 times", Fault::NodeKilled(20)), (100, 400)),
    node("a node killed in a call", Fault::NodeKilledInCall(3)),
    journal("a node with a journal killed", Fault::NodeKilled(3)).killed(3),
    long(
        journal("a node with a journal killed 20 times", Fault::NodeKilled(20)).killed(20),
        (100, 400),
    ),
    journal("a node with a journal killed in a call", Fault::NodeKilledInCall(3)).killed(3),
    one("SIGTERM in mid-stream", Fault::NodeTerminated),
    one("a node stopped", Fault::NodeStopped),
    long(one("a node stopped for 15 s", Fault::NodeStopped), (15_000, 16_000)),
    // Its holds have expired by then, and others may have used what was on hold.
    forgets(long(one("a node stopped for 700 s", Fault::NodeStopped), (700_000, 701_000))),
    node("a runtime dropped", Fault::NodeRuntimeDropped),
    one("a handler panics", Fault::HandlerPanics),
    node("a handler panics with panic=abort", Fault::HandlerPanicAborts),
    node("a journal torn", Fault::JournalTorn).journaled(),
    node("a bit of a journal flipped", Fault::JournalBitFlipped).journaled(),
    journal("a journal's disk full", Fault::JournalDiskFull),
    journal("a journal opened twice", Fault::JournalTwice),
    client("clients leave in mid-body", ClientFault::Leaves),
    client("clients reset in mid-body", ClientFault::Resets),
    client("clients vanish", ClientFault::Vanishes),
    client("clients read nothing of a short stream", ClientFault::Stalls),
    client("clients with a window of 0", ClientFault::WindowOfZero),
    client("clients that reset their requests", ClientFault::ResetsRequests),
    client("uploads of a byte each 10 ms", ClientFault::UploadsSlowly),
];

"""What the bus promises, by id. A test names the promise that it proves with
`@pytest.mark.promise("id")`; `test_guarantees.py` sees that none is left without proof.
"""

from __future__ import annotations

PROMISES = {
    "back.link": "While two processes live, a connection that breaks costs nothing under way.",
    "back.home": "A process comes back to a bus that was started again, with all its names.",
    "link.cap": "Direct links are capped, and closed when idle, and no request suffers from it.",
    "ends.reply-or-error": "Each request ends once, with a reply or a typed error.",
    "ends.deadline": "A request ends with its deadline at the latest, and so do those it caused.",
    "ends.peer-lost": "When a process goes away, what it had been asked ends with PeerLost.",
    "ends.nobody": "A request to nobody ends with NoResponder at once.",
    "ends.error-class": "The caller catches the class of error that the callee raised.",
    "ends.cancel": "A caller that leaves stops the handler, across processes too.",
    "ends.left-nothing": "What has ended leaves no task, file, socket or entry behind.",
    "order.lane": "Messages of one sender to one receiver are handled in the order of sending.",
    "order.key": "Messages for one key are handled in order, those for others beside them.",
    "order.stream": "Parts of a stream are read in the order of writing, and before its end.",
    "order.gather": "Answers stand in the order of the questions.",
    "order.join": "Joined contexts stand in the caller's order, and what they share stands there once.",
    "context.lease": "A context that a request under way refers to is not forgotten by who asks.",
    "context.fetch": "A context is brought only to a process that was referred to it.",
    "topic.all": "Who has subscribed gets each message published after that once, and those of one"
    " publisher in order, whichever way they come.",
    "flow.credit": "No more of a stream waits than its reader gave credit for.",
    "flow.mailbox": "A full mailbox refuses, and says so.",
    "flow.slow": "A slow consumer harms itself only.",
    "flow.bounded": "What a peer sends is bounded by named limits; beyond them its own link ends.",
    "flow.hops": "Requests in a circle end.",
    "flow.budget": "What a request and all it caused spend stays within its budget.",
    "trace.kept": "Errors always leave their spans; of other traces all processes keep the same ones.",
    "own.copy": "No agent can change what another one holds.",
    "own.version": "A receiver reads what its type allows of another version, or says what not.",
    "once.delivery": "A request is handled once at most.",
    "group.room": "A member of a group is given no more than it has room for.",
    "group.waits": "What waits for a group goes to the first that has room, in order.",
    "handoff.accept": "A request is handed over only when the new agent has it.",
    "handoff.watch": "After a hand-over the caller depends on the new agent alone.",
    "peer.hostile": "Bytes that break the protocol end in a declared error on that link alone.",
    "peer.known": "Over tcp only authorised keys join, and nothing is sent in the clear.",
    "peer.may": "A process does only what the policy lets it.",
    "peer.grant": "A direct link carries only what the broker granted to that process, and not for longer.",
    "peer.secret": "No key, token or grant is written to a log, an error or a listing.",
    "drain.finish": "A worker that is told to end finishes what it has begun.",
}

COMPLAINTS = {
    "autogen-7016": "Two senders with equal local request ids collide.",
    "autogen-hang": "An unknown target or a dead worker leaves the caller hanging.",
    "autogen-6140": "Exceptions of handlers are swallowed.",
    "autogen-3667": "A message over the limit fails without a word of its size.",
    "autogen-4103": "Channels between hosts are not encrypted.",
    "a2a-1136": "One sink that stops draining wedges the server.",
    "slim-1669": "What waits to be sent to a slow peer grows without bound.",
    "nats-572": "Requests time out at random under load.",
    "dynamo-9734": "A message over a limit surfaces as a time-out.",
    "dynamo-14167": "A hidden local queue loses updates unseen.",
    "autogen-reconnect": "A worker whose connection to the host broke never comes back.",
    "a2a-832": "Events are lost when a subscriber has to connect again.",
    "ray-59681": "A batching timer delays the first token.",
}
"""Complaints of others' users (research: "What their users suffer"), each proven not to be ours.

Not among them, since what it is about is not there yet: JetStream's publishing (nats.py 390)."""

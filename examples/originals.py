"""A model gets back what its prompt leaves out: it searches, reads a few lines, and answers."""

import asyncio

from agentbus import Agent, Call, handler
from agentbus.context import CONTEXT_TOOLS, context_tools, reference
from agentbus.engine import ToolCall
from agentbus.testing import Reply, open_bus

LOG = "\n".join(f"step {n} {'failed: disk full' if n == 90 else 'done'}" for n in range(1, 201))


class Doctor(Agent):
    """You say what went wrong."""

    @handler
    async def look(self, question: str, call: Call) -> str:
        answer = await call.answer(question, tools=context_tools())
        while answer.tool_calls:
            for asked in answer.tool_calls:
                await call.answer_tool(asked)  # appends the result to call.context
            answer = await call.answer(tools=context_tools())
        return answer.text


async def main() -> None:
    async with open_bus() as bus:
        context = bus.context().tools(CONTEXT_TOOLS).tool_result("run", LOG)
        ref = reference(context.segments()[1], context)  # as marks in a prompt name it
        search = ToolCall("context_search", {"ref": ref, "query": "failed"})
        get = ToolCall("context_get", {"ref": ref, "lines": "89-91"})
        await bus.script("small", [Reply(calls=(search,)), Reply(calls=(get,)), "It was full."])
        await bus.spawn(Doctor, name="doctor", model="small")
        reply = await bus.call("doctor", "What went wrong?", context=context)
        for segment in (reply.context or context).segments()[2:]:
            print(segment.text)


asyncio.run(main())

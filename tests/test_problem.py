"""What servers say, as people have met it: which of it is a full context, which an unknown setting.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retro.interop.problem import SETTINGS, SYSTEM, problem_in

def error(text, **more):
    return {"error": {"message": text, **more}}

TOO_LONG = [
    (400, error("x", code="context_length_exceeded")),
    (500, error("Context size has been exceeded.", code=500, type="server_error")),
    (400, error("no", type="exceed_context_size_error")),
    (400, error("the request exceeds the available context size, try increasing it")),
    (400, error("prompt is too long: 213462 tokens > 200000 maximum")),
    (400, error("input length and `max_tokens` exceed context limit: 199759 + 8192 > 200000")),
    (400, [error("The input token count (9) exceeds the maximum number of tokens allowed (8).")]),
    (400, {"error": "This model's maximum prompt length is 8 but the request contains 9 tokens"}),
    (400, error("Please reduce the length of the messages or completion.")),
    (400, error("This endpoint's maximum context length is 8 tokens. You requested about 9.")),
    (400, {"message": "Input length 9 exceeds the maximum allowed input length of 8 tokens."}),
    (400, error("The input (9 tokens) is longer than the model's context length (8 tokens).")),
    (400, error("prompt token count of 9 exceeds the limit of 8")),
    (400, {"error": "tokens to keep from the initial prompt is greater than the context length"}),
    (400, error("invalid params, context window exceeds limit")),
    (400, error("Your request exceeded model token limit: 8 (requested: 9)")),
    (400, {"message": "Prompt contains 9 tokens, too large for model with 8 maximum length"}),
    (400, error("Prompt has 9 tokens, but the configured context size is 8 tokens")),
    (400, error("Range of input length should be [1, 129024]")),
    (400, error("Request has too many tokens")),
    (400, error("Requested tokens (9) exceed context window of 8")),
    (400, error("Prompt length 9 is greater than max_seq_len 8")),
    (400, error("Prompt exceeds max length", code="1261")),
    (400, {"object": "error", "message": "This model's maximum context length is 8", "code": 400}),
    (400, error("'max_tokens' is too large: 2. This model's maximum context length is 8 tokens")),
    (400, error("string too long", code="string_above_max_length")),
    (400, {"detail": "Prompt length (9) exceeds maximum input length (8)."}),
    (413, "<html>Request Entity Too Large</html>"),
    (413, error("Request too large: tokens per minute", code="rate_limit_exceeded")),
    (422, {"error": "`inputs` tokens + `max_new_tokens` must be <= 8. Given: 9", "type": "x"}),
    (422, {"error": "Input validation error: `inputs` must have less than 8 tokens. Given: 9"}),
    (429, error("Request too large for gpt-4 on tokens per min (TPM): Limit 8, Requested 9.")),
    (500, {"error": "prompt too long; exceeded max context length by 1 token"}),
    (200, error("no", code="context_length_exceeded")),
    (200, error("Provider returned error", metadata={"raw": "prompt is too long: 9 tokens"})),
    (200, error("Provider returned error", code=502, metadata={"raw": "prompt is too long: 9"})),
    (503, error("Provider returned error", metadata={"raw": '{"error":"prompt is too long: 9"}'})),
    (424, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}),
    *((400, error("x", code=code)) for code in (
        "context_overflow", "max_context_exceeded", "input_length_exceeded",
        "prompt_tokens_exceeded", "token_limit_exceeded")),
    (400, error("the input token count is 40000 but model only supports up to 32767. Reduce it.")),
    (400, error("The sum of prompt length (9.0), query length (0) and max_new_tokens should not "
                "exceed max_num_tokens (8)")),
    (400, error("The prompt is 9 tokens long, so generating 2 tokens requires a sequence length of "
                "11, but the maximum supported sequence length is just 10!")),
    (400, error("Requested 5000 tokens, but only 4096 allowed")),
    (400, {"error": "model requires more tokens than n_ctx: 5000 > 4096"}),
    (400, {"error": "Context overflow: prompt has 5000 tokens"}),
    (400, {"error": "This model only supports 4096 tokens, but your prompt has 5000."}),
    (400, {"error": "Context is full"}),
    (400, error("max_tokens must be at least 1, got -234.", param="max_tokens")),
    (200, {"choices": None, "base_resp": {
        "status_code": 2013, "status_msg": "invalid params, context window exceeds limit (2013)"}}),
    (200, {"object": "error", "message": "This model's maximum context length is 8 tokens.",
           "code": 40303}),
    (200, {"choices": [], "detail": "maximum context length is 8 tokens"}),
    (400, error("Your prompt is too long to process")),
    (400, error("Total tokens of image and text exceed max message tokens")),
]  # fmt: skip
FITS = [
    (500, {"error": "context deadline exceeded"}),
    (503, {"error": "context canceled"}),
    (429, {"message": "Too many tokens, please wait before trying again."}),
    (429, error("Rate limit reached: tokens per min. Limit 8", code="rate_limit_exceeded")),
    (404, error("model `big-context-window` does not exist")),
    (400, error("max_tokens is too large: 2. This model supports at most 1 completion tokens")),
    (400, error("You exceeded your current quota of tokens", code="insufficient_quota")),
    (401, error("invalid token: longer than expected")),
    (400, error("Invalid JSON in the request's context")),
    (500, "<html>oh no</html>"),
    (500, {"error": "Request took too long to complete, please retry"}),
    (500, error("Error: request timed out; text generation took too long")),
    (500, {"error": "Timed out: prompt processing took longer than 60 s"}),
    (500, error("prompt evaluation time exceeded")),
    (500, error("Input queue length exceeded")),
    (500, error("Token bucket exceeded")),
    (500, error("KV cache exhausted, sequence preempted longer than 60 s")),
    (400, error("You have exceeded your monthly token limit")),
    (400, error("You have exceeded your monthly token limit", code="token_limit_exceeded")),
    (400, error("Daily input token allowance exceeded")),
    (400, error("Invalid token: JWT exceeds 8 kB")),
    (400, error("Image input too large")),
    (400, error("stop sequence exceeds maximum length of 8 tokens")),
    (400, error("model name too long: request")),
    (403, error("your plan has no model with a context window of 1M")),
    (200, error("context length", code=404)),
    *((400, nothing) for nothing in ({}, "", [], None, 7, {"error": {}}, {"error": [[]]})),
]
UNKNOWN = [  # what has to be left out
    ("temperature", 400, error("no", param="temperature", code="unsupported_value")),
    ("temperature", 400, error("'temperature' does not support 0.3 with this model.")),
    ("temperature", 400, error("temperature must be 1 for this model")),
    ("temperature", 400, error("`temperature` is deprecated for this model.")),
    ("temperature", 400, error("invalid temperature: only 1 is allowed for this model")),
    ("stop", 400, error("no", param="stop")),
    ("stop", 400, error("Unsupported parameter: 'stop' is not supported with this model.")),
    ("stop", 400, error("Argument not supported on this model: stop")),
    ("stop", 400, error("stop: Extra inputs are not permitted")),
    ("stop", 500, error("Unsupported param: stop", code=500)),
    ("stop", 422, {"title": "x", "detail": "body -> stop\n  Extra inputs are not permitted"}),
    ("seed", 422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs not permitted"}]}),
    ("seed", 400, {"message": "[{'loc': ('body', 'seed'), 'msg': 'Extra inputs not permitted'}]"}),
    ("seed", 400, error("Unknown field: seed")),
    ("seed", 400, error('Unknown name "seed": Cannot find field.')),
    ("max_tokens", 400, error("'max_tokens' is not supported. Use 'max_completion_tokens'.")),
    ("max_completion_tokens", 400, error("Unknown parameter: 'max_completion_tokens'.")),
    (SYSTEM, 400, error("System role not supported")),
    (SYSTEM, 400, error("Developer instruction is not enabled for models/gemma-3-27b-it")),
    (SYSTEM, 400, error("'messages[0].role' does not support 'system' with this model.")),
    (SYSTEM, 500, error("Conversation roles must alternate user/assistant/user/assistant/...")),
    (SYSTEM, 400, error("Only user and assistant roles are supported!")),
    (SYSTEM, 422, {"detail": [{"loc": ["body", "messages", 0, "role"],
                               "msg": "Input should be 'user' or 'assistant'"}]}),
    ("temperature", 400, error("`temperature` has to be a strictly positive float, but is 0.0")),
    ("temperature", 400, {"error": "ValueError: Sampling temperature 0 out of range"}),
    ("temperature", 400, error("Bad request. temperature and top_p cannot both be set")),
    ("stop", 400, error("This model doesn't support the stopSequences field. Remove it.")),
    ("seed", 400, error("Seed not supported for this model")),
    ("seed", 400, error("Invalid value at 'generation_config.seed' (TYPE_INT32), 3000000000")),
    ("seed", 400, {"errors": [{"field": "seed", "message": "unsupported"}]}),
    ("seed", 400, error("#/seed: extraneous key [seed] is not permitted")),
    (SYSTEM, 400, error("Role must be one of user, assistant")),
    (SYSTEM, 400, error("First message must be from user")),
    (SYSTEM, 400, error("The first message must be from a user")),
    (SYSTEM, 400, error("Please use a valid role: user, model.")),
    (SYSTEM, 400, error("Roles should alternate between user and assistant")),
    (SYSTEM, 400, error('Unexpected role "system".')),
    (SYSTEM, 400, error("role 'system' is not allowed")),
    (SYSTEM, 500, {"error": "raise_exception('System role not supported')"}),
    ("", 500, error("Internal system error: unexpected message")),
    ("", 500, error("The system encountered an unexpected error while handling your messages")),
    ("", 500, error("unexpected end of the system message")),
    ("", 400, error("rejected by our safety system. Your prompt may hold text that is not allowed",
                    param="prompt")),
    ("", 400, error("Invalid input, please stop and retry")),
    ("", 400, error("Unsupported input. Stop sending images.")),
    ("", 400, error("Not allowed. Stop: your account is suspended")),
    ("", 400, error("Invalid model bytedance/seed: not found")),
    ("", 400, error("Invalid prompt: room temperature superconductors are not allowed")),
    ("", 400, error("Please stop sending images: unsupported content")),
    ("", 400, error("the server will stop soon, invalid request")),
    ("", 400, error("model stopped: not supported any more")),
    ("", 400, error("Bad request: the seed data is invalid")),
    ("", 400, error("stop")),
    ("", 401, error("invalid 'stop' key")),
    ("", 404, error("the model `base` does not exist")),
]  # fmt: skip

FAULTS = [  # a turn without an answer; the next one may have one
    ("length", 400, error("Could not finish the message because max_tokens or model output limit "
                          "was reached. Please try again with higher max_tokens.")),
    ("content_filter", 400, error("The response was filtered due to the prompt triggering Azure "
                                  "OpenAI's content management policy.")),
    ("content_filter", 400, error("no", code="content_filter")),
    ("content_filter", 400, error("no", code="content_policy_violation")),
    ("content_filter", 400, error("Your request was rejected by our safety system.")),
    ("content_filter", 400, error("Invalid prompt: your prompt was flagged as violating a policy")),
    ("content_filter", 400, error("Input data may contain x", code="data_inspection_failed")),
    ("content_filter", 400, error("Content Exists Risk")),
    ("content_filter", 403, error("Your model requires moderation and your input was flagged")),
    ("context", 400, error("no", code="context_length_exceeded")),
    ("", 400, error("Your account was flagged")),
    ("", 401, error("no", code="content_filter")),
    ("", 400, error("no such thing")),
]  # fmt: skip

@pytest.mark.parametrize("fault, status, body", FAULTS)
def test_a_turn_that_stays_unanswered(fault, status, body):
    problem = problem_in(body, status)
    assert problem.fault() == fault and not (fault and problem.unknown())

@pytest.mark.parametrize("status, body", TOO_LONG)
def test_a_context_that_is_full(status, body):
    problem = problem_in(body, status)
    assert problem.too_long() and problem.fault() == "context" and not problem.unknown()

@pytest.mark.parametrize("status, body", FITS)
def test_other_errors_are_no_full_context(status, body):
    assert not problem_in(body, status).too_long()

@pytest.mark.parametrize("name, status, body", UNKNOWN)
def test_the_setting_or_role_that_is_not_known(name, status, body):
    assert problem_in(body, status).unknown() == name

JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["error", "message", "detail", "code", "type", "param", "loc", "errors",
                         "metadata", "raw"]), inner),
    max_leaves=9,
)  # fmt: skip

@given(JSON, st.sampled_from([200, 400, 413, 429, 500]))
def test_any_json_is_a_problem(value, status):
    problem = problem_in(value, status)
    assert isinstance(problem.message, str) and isinstance(problem.code, str)
    assert problem.unknown() in ("", SYSTEM, *SETTINGS) and problem.too_long() in (True, False)

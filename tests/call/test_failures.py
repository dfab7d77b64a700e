"""Which class a refusal is, what it says, and that it shows no secret."""

import pytest

from videorouter import errors
from videorouter.call.answers import ErrorAnswer
from videorouter.call.failures import (
    build_error,
    build_refusal,
    classify_answer,
    find_request_id,
    is_moderation,
    show_body,
    show_headers,
)
from videorouter.call.retry import TABLE, Outcome, RequestKind
from videorouter.config import resolve
from videorouter.http import Attempt, Response

KEY = "sk-secret"


def redact(text):
    return text.replace(KEY, "<redacted>")


def refuse(status, *, effective=None, headers=(), auth_scheme=None, **told):
    answer = ErrorAnswer(status=status, effective=effective or status, **told)
    return build_refusal(answer, headers, redact=redact, auth_scheme=auth_scheme, model="veo")


def test_what_a_refusal_says_is_bounded():
    endless = "x" * 3_000_000
    error = refuse(422, message=endless, code=endless, type=endless, param=endless)
    assert len(error.message) < 1500
    assert max(map(len, (error.code, error.type, error.param))) <= 1000


@pytest.mark.parametrize(
    ("status", "cls"),
    [
        (400, errors.BadRequestError),
        (401, errors.AuthenticationError),
        (402, errors.InsufficientCreditsError),
        (403, errors.PermissionDeniedError),
        (404, errors.NotFoundError),
        (405, errors.APIStatusError),
        (422, errors.UnprocessableEntityError),
        (429, errors.RateLimitError),
        (500, errors.InternalServerError),
        (524, errors.InternalServerError),
    ],
)
def test_the_status_chooses_the_class(status, cls):
    error = refuse(status, message="no")
    assert type(error) is cls
    assert (error.status, error.model, error.in_doubt) == (status, "veo", False)


@pytest.mark.parametrize("status", [400, 403, 422])
@pytest.mark.parametrize(
    "told", [{"type": "content_policy_violation"}, {"code": "moderation_blocked"}, {"message": "flagged as NSFW"}]
)
def test_moderation_is_one_class_wherever_it_surfaces(status, told):
    assert type(refuse(status, **told)) is errors.ContentPolicyError


def test_an_error_under_http_200_says_so():
    error = refuse(200, effective=400, message="model is required")
    assert type(error) is errors.BadRequestError
    assert "under HTTP 200" in str(error)


@pytest.mark.parametrize(("scheme", "words"), [(None, 'auth_scheme="Bearer"'), ("Bearer", "auth_scheme=None")])
def test_a_401_says_what_was_sent_and_how_to_switch(scheme, words):
    assert words in str(refuse(401, auth_scheme=scheme))


def test_cloudflares_1010_is_no_bad_key():
    error = refuse(403, body=b"error code: 1010")
    assert type(error) is errors.PermissionDeniedError
    assert "user_agent" in str(error)
    assert "not a bad key" in str(error)


def test_the_request_id_comes_from_the_header_else_from_the_message():
    assert find_request_id(((b"x-infron-request-id", b"r-1"),), "no (request id: r-2)") == "r-1"
    assert find_request_id((), "no (request id: r-2)") == "r-2"
    assert find_request_id((), "no") is None


def test_no_fact_of_a_refusal_shows_the_key():
    headers = ((b"x-infron-request-id", KEY.encode()), (b"cf-ray", KEY.encode()), (b"authorization", b"anything"))
    error = refuse(400, message=KEY, code=KEY, type=KEY, param=KEY, body=KEY.encode(), headers=headers)
    assert KEY not in repr((str(error), error.facts))
    assert dict(error.headers)["authorization"] == "<redacted>"


def test_the_evidence_is_bounded_and_holds_no_half_of_the_key():
    assert len(show_body(b"x" * 10_000, redact)) == 4096
    assert "sk-" not in show_body(b"x" * 4090 + KEY.encode(), redact)
    assert len(show_headers(((b"a", b"b" * 5000),) * 100, redact)) == 64


@pytest.mark.parametrize(
    "words",
    [
        "content policy",
        "content_policy_violation: refused",
        "Safety system",
        "This prompt contains prohibited content",
        "The request failed because the input text may contain sensitive information.",
        "your prompt violates our usage policies",
        "rejected by our moderation",
        "Moderation blocked it",
        "it did not pass our moderation",
        "flagged as potentially harmful",
        "Responsible AI practices",
    ],
)
def test_words_of_moderation_are_known(words):
    assert is_moderation(None, None, words)


@pytest.mark.parametrize(
    "words",
    [
        "account flagged for suspicious billing",
        "model names are case-sensitive",
        "field names are case-sensitive words",
        "unknown field safety_checker",
        "time-sensitive queue slot lost",
        "use of this endpoint is prohibited",
        "moderation is unavailable for now",
        "violates the rate limit",
    ],
)
def test_a_bare_word_is_not_moderation(words):
    assert not is_moderation(None, None, words)
    assert type(refuse(400, message=words)) is errors.BadRequestError


@pytest.mark.parametrize(
    "code",
    [
        "content_policy_violation",
        "content-filter",
        "content_filter",
        "moderation_blocked",
        "input_moderation",
        "moderated",
        "sensitive_words_detected",
        "InputTextSensitiveContentDetected",
        "OutputVideoSensitiveContentDetected.Person",
        "safety_violation",
        "image.nsfw",
    ],
)
def test_a_code_or_a_type_of_moderation_is_known(code):
    assert is_moderation(None, code)
    assert is_moderation(f" {code.upper()} ", 422)


@pytest.mark.parametrize(
    "code",
    ["safety", "policy", "moderation_unavailable", "case_sensitive", "flagged", "invalid_safety_checker", "x" * 200],
)
def test_another_code_is_not_moderation(code):
    assert not is_moderation(code, code)


def test_other_words_are_not_moderation():
    assert not is_moderation("invalid_request", 422, "duration must be 8s")


# Out of credit


def judge(status, kind=RequestKind.ONCE, headers=(), effective=None, **told):
    answer = ErrorAnswer(status=status, effective=status if effective is None else effective, **told)
    response = Response(status=status, headers=headers)
    settings = resolve({"api_key": "sk-0123456789"}, {})
    failed = classify_answer(answer, response, Attempt(), kind, settings, wall=0.0)
    return failed, build_error(TABLE[failed.outcome][kind][1], failed, settings, kind=kind)


USED_UP = "Your current credits have been used up and we are unable to process further requests. (request id: r-9)"
FREE = "Free model requires Team balance greater than $4.999999. (request id: r-9)"


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (402, {}),
        (403, {"message": USED_UP}),
        (403, {"code": "insufficient_user_quota"}),
        (403, {"type": "insufficient_quota", "code": 403}),
        (429, {"message": FREE, "code": 429}),
        (429, {"code": "insufficient_quota"}),
        (429, {"code": "Insufficient_User_Quota", "message": "Please try again after 6 seconds."}),
        (200, {"effective": 403, "message": USED_UP}),
        (200, {"effective": 402}),
        (200, {"effective": 0, "code": "insufficient_user_quota"}),
    ],
)
@pytest.mark.parametrize("kind", [RequestKind.ONCE, RequestKind.HONOURED, RequestKind.UPLOAD, RequestKind.READ])
def test_out_of_credit_in_each_of_its_forms_is_one_class(kind, status, told):
    failed, error = judge(status, kind, **told)
    assert failed.outcome is Outcome.OUT_OF_CREDIT
    assert type(error) is errors.InsufficientCreditsError
    assert error.status == (status if status != 200 else told["effective"] or 200)
    assert "Top it up" in error.message
    assert not error.in_doubt


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (429, {"message": "Rate limit exceeded (5 requests per minute)."}),
        (429, {"message": "You exceeded your current quota, please check your plan and billing details."}),
        (403, {"message": "account flagged for suspicious billing"}),
        (403, {"message": "no credit"}),
        (400, {"code": "insufficient_quota"}),
        (500, {"message": USED_UP}),
        (200, {"effective": 0, "message": USED_UP}),
    ],
)
def test_what_does_not_say_so_is_not_out_of_credit(status, told):
    failed, error = judge(status, **told)
    assert failed.outcome is not Outcome.OUT_OF_CREDIT
    assert type(error) is not errors.InsufficientCreditsError


@pytest.mark.parametrize(
    ("headers", "message", "retry_after"),
    [
        ((), "Please try again after 6 seconds.", 6.0),
        (((b"retry-after", b"2"),), "Please try again after 6 seconds.", 2.0),
        (((b"retry-after", b"soon"),), "Please try again after 1 minute.", 60.0),
        ((), "slow down", None),
    ],
)
@pytest.mark.parametrize(("status", "effective"), [(429, 429), (200, 429)])
def test_the_wait_of_a_429_stands_in_its_words_when_no_header_says_it(status, effective, headers, message, retry_after):
    failed, error = judge(status, headers=headers, effective=effective, message=message)
    assert (failed.outcome, failed.retry_after) == (Outcome.THROTTLED, retry_after)
    assert error.retry_after == retry_after


def test_words_make_no_refusal_of_a_503():
    failed, _ = judge(503, message="Please try again after 6 seconds.")
    assert (failed.outcome, failed.retry_after) == (Outcome.SERVER_ERROR, None)

"""Which class a refusal is, what it says, and that it shows no secret."""

import pytest

from videorouter import errors
from videorouter.call.answers import ErrorAnswer
from videorouter.call.failures import build_refusal, find_request_id, is_moderation, show_body, show_headers

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
    assert find_request_id(((b"X-Infron-Request-Id", b"r-1"),), "no (request id: r-2)") == "r-1"
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


@pytest.mark.parametrize("words", ["content policy", "Safety system", "prohibited"])
def test_words_of_moderation_are_known(words):
    assert is_moderation(None, None, words)


def test_other_words_are_not_moderation():
    assert not is_moderation("invalid_request", 422, "duration must be 8s")

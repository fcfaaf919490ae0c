"""Publishing a model folder on the Hugging Face hub, when it is asked for."""

from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_token
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id

from ggam.deploy.model_card import PICTURE_FILE, PLACEHOLDER
from ggam.runs.model_folder import CARD_FILE, CONFIG_FILE, WEIGHTS_FILE, CheckpointError, read_config

FILES = (WEIGHTS_FILE, CONFIG_FILE, CARD_FILE, PICTURE_FILE)
"""All that is ever uploaded of a folder."""


class HubError(ValueError):
    """A model that cannot be published, or a hub that does not take it."""


def push_model(folder: Path, repo_id: str, *, public: bool = False) -> str:
    """Upload a model folder to the hub in one commit: weights, configuration, card and its picture.

    Nothing else in the folder is uploaded. A repository that does not exist is made; of one that does,
    these files are replaced and the others left alone.

    Args:
        folder: written by `ggam.save_model`, with a card of `ggam.deploy.model_card.write_card`.
        repo_id: `user/name` or `organisation/name`; the card's own example then names it.
        public: for everybody to see. Otherwise the repository is private, and one that is public
            already is refused.

    Returns:
        The address of the repository.

    Raises:
        CheckpointError: if the folder holds no model, or not the one that was saved.
        HubError: if it has no card, the id is not one, nobody is logged in, the repository is public
            and was not meant to be, or the hub refuses or does not answer.
    """
    read_config(folder)
    operations = _additions(folder, repo_id)
    _require_id(repo_id)
    if constants.HF_HUB_OFFLINE:
        raise HubError(f"{repo_id}: HF_HUB_OFFLINE says that this machine is offline; unset it to upload")
    if get_token() is None:
        raise HubError(f"{repo_id}: nobody is logged in to the hub; run hf auth login, or set HF_TOKEN")
    api = HfApi(library_name="ggam")
    try:
        url = api.create_repo(repo_id, private=not public, exist_ok=True)
        if not public and not api.model_info(repo_id).private:
            raise HubError(f"{repo_id}: exists and is public; upload to it with --public, or choose another")
        api.create_commit(repo_id, operations, commit_message="Upload model with ggam")
    except HubError:
        raise
    except HfHubHTTPError as error:
        raise HubError(f"{repo_id}: the hub refused: {_line(error.server_message or error)}") from error
    except Exception as error:  # those of its HTTP client, which has changed before, have no common base
        raise HubError(f"{repo_id}: the upload to {api.endpoint} failed: {_line(error)}") from error
    return str(url)


def _additions(folder: Path, repo_id: str) -> list[CommitOperationAdd]:
    """What is uploaded: files of the folder itself, the card with the id of the repository."""
    card = folder / CARD_FILE
    if not card.is_file():
        raise HubError(f"{folder}: holds no model card; write one with ggam card {folder}")
    for name in (CARD_FILE, PICTURE_FILE):
        if (folder / name).is_symlink():
            raise CheckpointError(f"{folder / name}: a link; copy the file into the folder to publish it")
    text = card.read_text("utf-8").replace(f'"{PLACEHOLDER}"', f'"{repo_id}"')
    content: dict[str, bytes | str] = {
        name: str((folder / name).resolve()) for name in FILES if (folder / name).is_file()
    }
    content[CARD_FILE] = text.encode()
    return [CommitOperationAdd(name, source) for name, source in content.items()]


def _require_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
        if repo_id.count("/") != 1:
            raise HFValidationError("one part")
    except HFValidationError as error:
        raise HubError(
            f"{repo_id!r}: expected user/name or organisation/name, of letters, digits, -, _ and ."
        ) from error


def _line(error: object) -> str:
    return " ".join(str(error).split())[:300]

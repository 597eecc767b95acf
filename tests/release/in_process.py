"""Publications validated in this process, in tests of something else; `checks/test_validation` has the child."""

from functools import partial

from lobsmith.release.checks.validation import check_version
from lobsmith.release.publish import onnx as publication
from lobsmith.release.publish import promote as promotion

publish = partial(publication.publish, validate=check_version)
promote = partial(promotion.promote, validate=check_version)
deploy_candidate = partial(promotion.deploy_candidate, validate=check_version)

"""Dependency groups: which axes of which parameters must shrink together, found from the trace of any function."""

from jaxcompress.core.groups.analysis import groups as groups
from jaxcompress.core.groups.result import Group as Group
from jaxcompress.core.groups.result import Groups as Groups
from jaxcompress.core.groups.result import Keep as Keep
from jaxcompress.core.groups.result import Member as Member
from jaxcompress.core.groups.result import Pin as Pin

"""pynetdicom: a medical imaging node that answers C-ECHO."""

from pynetdicom import AE
from pynetdicom.sop_class import Verification
from pynetdicom.transport import ThreadedAssociationServer

node = AE("NODE")
node.add_supported_context(Verification)
node.maximum_associations = 100
server = ThreadedAssociationServer(node, ("127.0.0.1", 0), "NODE", node.supported_contexts)

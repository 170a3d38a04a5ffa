"""impacket: the current folder as a Windows share."""

import os

from impacket.smbserver import SimpleSMBServer

share = SimpleSMBServer("127.0.0.1", 0)
share.setSMB2Support(True)
share.addShare("FILES", os.getcwd())
server = share.getServer()

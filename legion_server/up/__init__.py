"""`legion-server up`: a whole run on this machine: server, workers and assembler as processes, watched by one program.

It knows the others only as commands and HTTP: no torch, no grpc, nothing of the client is imported here.
"""

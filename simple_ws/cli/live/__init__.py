"""`simple-ws live`: a server for SDKs, from a configuration of Centrifugo."""

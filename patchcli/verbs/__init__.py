"""What each verb does, as one function of the verb's name: the Python API. Import them from `patchcli`."""

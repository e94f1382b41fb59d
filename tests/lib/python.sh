# The Python packages of tests/requirements.txt, in an environment of the checkout's own, which is made once and kept
# beside what cargo builds. Tests find its interpreter by PORTOLAN_TEST_PYTHON; it is unset where there is none.

# Makes the environment unless it is there already ($1 is true), or says what is missing.
python_provide() {
    local folder=${CARGO_TARGET_DIR:-target}/python wanted
    if ! command -v python3 >/dev/null; then
        python_missing
        return 0
    fi
    wanted=$(python3 --version && cat tests/requirements.txt)
    # Written last: what was interrupted is made again.
    if [ "$wanted" != "$(cat "$folder/made-of" 2>/dev/null)" ]; then
        if [ "$1" != true ]; then
            python_missing
            return 0
        fi
        echo "installing the Python packages of tests/requirements.txt in $folder"
        rm -rf "$folder"
        python3 -m venv "$folder"
        "$folder/bin/python" -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
        echo "$wanted" >"$folder/made-of"
    fi
    PORTOLAN_TEST_PYTHON=$(cd "$folder" && pwd)/bin/python
    export PORTOLAN_TEST_PYTHON
}

python_missing() {
    echo "missing: the Python packages of tests/requirements.txt (tests/run --install) - tests of the control socket's" \
        'schema, of the metrics and of WebSocket are skipped'
}

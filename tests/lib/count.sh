# The closing line: how many tests passed, failed, and skipped themselves.

# $1: what the runner printed; $2: one line for each test that skipped itself (such a test passes for its runner).
count_tests() {
    sort -u "$2" | awk '
        FILENAME == "-" { skipped++; next }
        { gsub(/\033\[[0-9;]*m/, "") }
        # What nextest shows of its tests own output is no count.
        /^ *Starting [0-9]+ tests? across / { in_nextest = 1 }
        # nextest:    Summary [   1.2s] 9 tests run: 7 passed (1 slow), 1 failed, 1 timed out, 3 skipped
        /^ *Summary \[/ {
            sub(/.*tests? run: /, "")
            count = split($0, part, ", ")
            for (i = 1; i <= count; i++) {
                number = part[i] + 0
                if (part[i] ~ /passed/) passed += number
                else if (part[i] ~ /failed|timed out/) failed += number
            }
        }
        # cargo test: test result: ok. 7 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
        /^test result: / && !in_nextest {
            sub(/^test result: [A-Za-z]+\. /, "")
            count = split($0, part, "; ")
            for (i = 1; i <= count; i++) {
                if (part[i] ~ /passed/) passed += part[i] + 0
                else if (part[i] ~ /failed/) failed += part[i] + 0
            }
        }
        END { printf "%d passed, %d failed, %d skipped\n", passed - skipped, failed, skipped }
    ' - "$1"
}

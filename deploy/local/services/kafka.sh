# shellcheck shell=bash
# Apache Kafka of the stack: one node, broker and controller (KRaft), jars from Maven Central as kafka/pom.xml
# pins them. When they cannot be had (or LOCAL_KAFKA=mock) librdkafka's mock brokers stand in: enough for the
# demo, in memory only, on a port of their own choice, and every output says so.

KAFKA_VERSION=$(sed -n 's:.*<kafka.version>\(.*\)</kafka.version>.*:\1:p' "$here/kafka/pom.xml")
KAFKA_FETCH_TIMEOUT=300
EVENT_PARTITIONS=6
EVENT_BYTES_MAX=1048576 # a valid event has 262144 at most; larger ones must reach the dead-letter topic
DLQ_BYTES_MAX=2097152

kafka_word() { if [[ $(kafka_mode) == mock ]]; then echo mock_kafka; else echo kafka.Kafka; fi; }
kafka_ports() { if [[ $(kafka_mode) == real ]]; then echo "KAFKA KAFKA_CONTROLLER"; fi; }
kafka_stop_signal() { echo TERM; }
kafka_good_exits() { echo 0 143; } # the JVM ends orderly with 143

# Another stack (the tests') shares the jars that the demo's has.
kafka_home() {
    local name=kafka-$KAFKA_VERSION
    if [[ -n ${LOCAL_KAFKA_HOME:-} ]]; then
        realpath -ms "$LOCAL_KAFKA_HOME"
    elif [[ ! -e $LOCAL_DIR/$name && -e $root/.local/$name/libs ]]; then
        echo "$root/.local/$name"
    else
        echo "$LOCAL_DIR/$name"
    fi
}

# Decides between real and mock; fetches the jars if need be. Also run by `up` beside the build. What runs stays
# what it is.
kafka_fetch() {
    local home mode=real
    if service_pid kafka >/dev/null; then
        if [[ -n ${LOCAL_KAFKA:-} && $LOCAL_KAFKA != $(kafka_mode) ]]; then
            die "Kafka runs already and is $(kafka_mode), not $LOCAL_KAFKA: stop it first"
        fi
        return
    fi
    case ${LOCAL_KAFKA:-real} in
        real | mock) ;;
        *) die "LOCAL_KAFKA=$LOCAL_KAFKA is neither real nor mock" ;;
    esac
    if [[ ${LOCAL_KAFKA:-real} == mock ]]; then
        mode=mock
    else
        home=$(kafka_home)
        if [[ ! -e $home/libs ]] && ! kafka_download "$home"; then
            mode=mock
        fi
    fi
    echo "$mode" >"$RUN/kafka.mode"
}

kafka_download() {
    local home=$1 draft=$1.partial
    rm -rf "$draft"
    mkdir -p "$draft"
    command -v mvn >/dev/null || die "Maven is not installed: install the packages maven and openjdk-17-jre-headless"
    # Maven works on a copy, with its repository and temporary files inside, and leaves nothing elsewhere.
    cp "$here/kafka/pom.xml" "$draft/pom.xml"
    if MAVEN_OPTS="-XX:-UsePerfData -Djava.io.tmpdir=$LOCAL_DIR/tmp" timeout "$KAFKA_FETCH_TIMEOUT" \
        mvn -B --strict-checksums -f "$draft/pom.xml" -Dmaven.repo.local="$draft/repository" -Dstyle.color=never \
        org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies -DincludeScope=runtime -DoutputDirectory="$draft/libs" \
        </dev/null >"$LOGS/kafka-fetch.log" 2>&1; then
        rm -rf "$draft/repository"
        mv -T "$draft" "$home"
        return 0
    fi
    warn "Apache Kafka $KAFKA_VERSION could not be fetched from Maven Central (see $LOGS/kafka-fetch.log):"
    grep -m 1 '^\[ERROR\]' "$LOGS/kafka-fetch.log" | cut -c1-300 >&2 || true
    warn "librdkafka's MOCK brokers stand in for it; what they hold is lost when they stop"
    rm -rf "$draft"
    return 1
}

# kafka_java HEAP CLASS ARGUMENT...: prints the command line, one word a line.
kafka_java() {
    local heap=$1
    shift
    printf '%s\n' java "-Xmx$heap" -XX:+UseSerialGC -XX:-UsePerfData -Djava.awt.headless=true \
        "-Djava.io.tmpdir=$LOCAL_DIR/tmp" "-Dlog4j2.configurationFile=$here/kafka/log4j2.xml" \
        -cp "$(kafka_home)/libs/*" "$@"
}
kafka_tool() {
    local words
    mapfile -t words < <(kafka_java 128m "$@")
    "${words[0]}" -XX:TieredStopAtLevel=1 "${words[@]:1}"
}

kafka_prepare() {
    local id
    kafka_fetch
    [[ $(kafka_mode) == real ]] || return 0
    command -v java >/dev/null || die "Java is not installed: install the package openjdk-17-jre-headless"
    mkdir -p "$LOCAL_DIR/kafka"
    sed -e "s|@PORT@|${PORT[KAFKA]}|g" -e "s|@CONTROLLER_PORT@|${PORT[KAFKA_CONTROLLER]}|g" \
        -e "s|@DATA@|$LOCAL_DIR/kafka/data|g" "$here/kafka/server.properties" >"$LOCAL_DIR/kafka/server.properties"
    if [[ ! -e $LOCAL_DIR/kafka/formatted ]]; then
        rm -rf "$LOCAL_DIR/kafka/data" "$LOCAL_DIR/kafka/topics"
        id=N$(random_bytes64 16 | tr '+/' '-_' | cut -c2-22)
        kafka_tool kafka.tools.StorageTool format -t "$id" -c "$LOCAL_DIR/kafka/server.properties" \
            >"$LOGS/kafka-format.log" 2>&1 || die "Kafka's folder could not be formatted; see $LOGS/kafka-format.log"
        touch "$LOCAL_DIR/kafka/formatted"
    fi
}

kafka_spawn() {
    local words
    KAFKA_LOG_FROM=$(($(stat -c %s "$LOGS/kafka.log" 2>/dev/null || echo 0) + 1))
    if [[ $(kafka_mode) == mock ]]; then
        [[ -x $LOCAL_BUILD_DIR/tests/mock_kafka ]] || die "$LOCAL_BUILD_DIR/tests/mock_kafka is not built yet: deploy/local/up builds it"
        rm -f "$RUN/kafka.bootstrap"
        service_spawn kafka "$LOCAL_BUILD_DIR/tests/mock_kafka" --bootstrap-file "$RUN/kafka.bootstrap" \
            --topic "$TOPIC:$EVENT_PARTITIONS" --topic "$DLQ_TOPIC:1"
        return
    fi
    mapfile -t words < <(kafka_java 512m -Xms256m kafka.Kafka "$LOCAL_DIR/kafka/server.properties")
    service_spawn kafka "${words[@]}"
}

# A Kafka that this command did not start has been awaited by the one that did.
kafka_ready() {
    if [[ $(kafka_mode) == mock ]]; then
        [[ -s $RUN/kafka.bootstrap ]]
    else
        [[ -z ${KAFKA_LOG_FROM:-} ]] || tail -c "+$KAFKA_LOG_FROM" "$LOGS/kafka.log" | grep -q 'Kafka Server started'
    fi
}

kafka_after_ready() {
    local events dlq
    [[ $(kafka_mode) == real && ! -e $LOCAL_DIR/kafka/topics ]] || return 0
    kafka_topic "$TOPIC" "$EVENT_PARTITIONS" "$EVENT_BYTES_MAX" &
    events=$!
    kafka_topic "$DLQ_TOPIC" 1 "$DLQ_BYTES_MAX" &
    dlq=$!
    if ! wait "$events" || ! wait "$dlq"; then
        die "the topics could not be created; see $LOGS/kafka-topics.log"
    fi
    touch "$LOCAL_DIR/kafka/topics"
}
kafka_topic() {
    kafka_tool org.apache.kafka.tools.TopicCommand --bootstrap-server "127.0.0.1:${PORT[KAFKA]}" --create \
        --if-not-exists --topic "$1" --partitions "$2" --replication-factor 1 --config "max.message.bytes=$3" \
        >>"$LOGS/kafka-topics.log" 2>&1 9>&-
}

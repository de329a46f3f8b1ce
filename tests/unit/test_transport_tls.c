/* worker/transport*.c over TLS: nginx as the receiver, authorities and certificates made for the
 * run. */
#include "transport_fixture.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define SYSTEM_CA "/etc/ssl/certs/ca-certificates.crt"
#define NAME      "tls.example.com"

static const char server_subject[] = "/CN=" NAME;
static char dir[] = "/tmp/nrw-tls-XXXXXX";
static pid_t nginx = -1;
static unsigned port, old_port, close_port;

static char *in_dir(const char *name)
{
    static char paths[4][64];
    static unsigned next;
    char *path = paths[next++ % 4];
    (void)snprintf(path, sizeof(paths[0]), "%s/%s", dir, name);
    return path;
}

static void write_file(const char *name, const char *text)
{
    FILE *f = fopen(in_dir(name), "we");
    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

static pid_t spawn(const char *const *argv)
{
    const pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        const int null = open("/dev/null", O_RDWR | O_CLOEXEC);
        (void)dup2(null, 1);
        (void)dup2(null, 2);
        if (chdir(dir) == 0) {
            char *args[24] = {0};
            for (int i = 0; argv[i] != NULL && i < 23; i++) {
                args[i] = mem_dup(argv[i]);
            }
            (void)execvp(args[0], args);
        }
        _exit(127);
    }
    return pid;
}

static void run(const char *const *argv)
{
    int status = 0;
    const pid_t pid = spawn(argv);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static void make_authority(const char *key, const char *cert, const char *subject)
{
    const char *const argv[] = {
        "openssl", "req",     "-x509", "-newkey", "ec",    "-pkeyopt", "ec_paramgen_curve:P-256",
        "-nodes",  "-sha256", "-days", "2",       "-subj", subject,    "-keyout",
        key,       "-out",    cert,    NULL};
    run(argv);
}

static void make_certificates(void)
{
    const char *const request[] = {
        "openssl",    "req",   "-newkey",      "ec",      "-pkeyopt",   "ec_paramgen_curve:P-256",
        "-nodes",     "-subj", server_subject, "-keyout", "server.key", "-out",
        "server.csr", NULL};
    const char *const sign[] = {"openssl",
                                "x509",
                                "-req",
                                "-sha256",
                                "-in",
                                "server.csr",
                                "-CA",
                                "ca.crt",
                                "-CAkey",
                                "ca.key",
                                "-CAcreateserial",
                                "-days",
                                "2",
                                "-extfile",
                                "names.txt",
                                "-out",
                                "server.crt",
                                NULL};
    make_authority("ca.key", "ca.crt", "/CN=nrw test authority");
    make_authority("other.key", "other.crt", "/CN=nrw other authority");
    write_file("names.txt", "subjectAltName=DNS:" NAME "\n");
    run(request);
    run(sign);
}

static unsigned free_port(void)
{
    struct sockaddr_in sin = {.sin_family = AF_INET};
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t len = sizeof(sin);
    const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(bind(fd, (struct sockaddr *)&sin, sizeof(sin)), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&sin, &len), 0);
    close(fd);
    return ntohs(sin.sin_port);
}

static void await_port(unsigned p)
{
    struct sockaddr_in sin = {.sin_family = AF_INET, .sin_port = htons((uint16_t)p)};
    sin.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    const int64_t until = clock_mono_us() + 10000000;
    for (int rc = -1; rc != 0;) {
        const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        rc = connect(fd, (struct sockaddr *)&sin, sizeof(sin));
        close(fd);
        assert_true(clock_mono_us() < until);
        assert_int_equal(waitpid(nginx, NULL, WNOHANG), 0); /* still alive */
    }
}

static int start_nginx(void **state)
{
    (void)state;
    char conf[2048];
    assert_non_null(mkdtemp(dir));
    make_certificates();
    port = free_port(), old_port = free_port(), close_port = free_port();
    (void)snprintf(
        conf, sizeof(conf),
        "daemon off; master_process off; pid nginx.pid; error_log error.log;\n"
        "events { worker_connections 64; }\n"
        "http { access_log off; client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path "
        "t3;\n"
        "uwsgi_temp_path t4; scgi_temp_path t5; ssl_certificate server.crt; ssl_certificate_key "
        "server.key;\n"
        "server { listen 127.0.0.1:%u ssl; ssl_protocols TLSv1.2 TLSv1.3; location / { return 200 "
        "hello; } }\n"
        "server { listen 127.0.0.1:%u ssl; ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0; "
        "location / { return 200; } }\n"
        "server { listen 127.0.0.1:%u ssl; keepalive_timeout 0; location / { return 200; } } }\n",
        port, old_port, close_port);
    write_file("nginx.conf", conf);
    const char *const argv[] = {"nginx", "-p", dir, "-e", "error.log", "-c", "nginx.conf", NULL};
    nginx = spawn(argv);
    await_port(port);
    return 0;
}

static int stop_nginx(void **state)
{
    (void)state;
    if (nginx > 0) {
        (void)kill(nginx, SIGTERM);
        (void)waitpid(nginx, NULL, 0);
    }
    const char *const argv[] = {"rm", "-r", dir, NULL};
    run(argv);
    return 0;
}

static const struct transport_result *post_tls(struct fixture *f, const char *host, unsigned to)
{
    const struct request r = {.host = host, .port = to, .tls = true, .body = "{}"};
    return post(f, &r);
}

static void test_a_trusted_certificate_is_accepted_and_the_connection_kept(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("ca.crt"), 2, 16);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(post_tls(f, NAME, port)->fault, TRANSPORT_OK);
        assert_int_equal(f->result.status, 200);
        assert_string_equal(f->result.body, "hello");
        assert_int_equal(f->result.reused, i > 0);
    }
    fixture_free(f);
}

static void test_an_untrusted_certificate_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("other.crt"), 2, 16);
    assert_int_equal(post_tls(f, NAME, port)->fault, TRANSPORT_TLS);
    assert_string_equal(f->result.error, "certificate: unable to get local issuer certificate");
    assert_int_equal(f->result.status, 0);
    fixture_free(f);
}

static void test_a_certificate_for_another_name_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("ca.crt"), 2, 16);
    assert_int_equal(post_tls(f, "wrong.example.com", port)->fault, TRANSPORT_TLS);
    assert_string_equal(f->result.error,
                        "certificate: no alternative certificate subject name matches "
                        "target host name 'wrong.example.com'");
    assert_int_equal(post_tls(f, "127.0.0.1", port)->fault, TRANSPORT_TLS);
    fixture_free(f);
}

static void test_tls_below_1_2_is_refused(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("ca.crt"), 2, 16);
    assert_int_equal(post_tls(f, NAME, old_port)->fault, TRANSPORT_TLS);
    assert_non_null(strstr(f->result.error, "TLS: "));
    fixture_free(f);
}

static void test_a_hanging_handshake_ends_at_the_connect_timeout(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("ca.crt"), 2, 16);
    assert_int_equal(post_tls(f, NAME, f->server.port)->fault,
                     TRANSPORT_TIMEOUT); /* no TLS there */
    assert_in_range(f->result.duration_us, 1900000, 2500000);
    assert_non_null(strstr(f->result.error, "TLS handshake with 127.0.0.1:"));
    fixture_free(f);
}

static void test_a_missing_authority_file_is_our_fault(void **state)
{
    (void)state;
    struct fixture *f = fixture_new(in_dir("absent.crt"), 2, 16);
    assert_int_equal(post_tls(f, NAME, port)->fault, TRANSPORT_OURS);
    fixture_free(f);
}

/* With libcurl's default CAPATH the whole bundle is parsed for each handshake: 20 ms instead
 * of 1.5. */
static void test_a_new_tls_connection_costs_little_cpu(void **state)
{
    (void)state;
#if defined(__SANITIZE_ADDRESS__)
    skip();
#endif
    enum { HANDSHAKES = 40 };
    char bundle[64];
    (void)snprintf(bundle, sizeof(bundle), "%s", in_dir("bundle.crt"));
    const char *const argv[] = {"sh", "-c", "cat " SYSTEM_CA " ca.crt > bundle.crt", NULL};
    run(argv);
    struct fixture *f = fixture_new(bundle, 1, 16);
    struct rusage from;
    struct rusage to;
    assert_int_equal(post_tls(f, NAME, close_port)->fault,
                     TRANSPORT_OK); /* parses the bundle once */
    assert_int_equal(getrusage(RUSAGE_SELF, &from), 0);
    for (int i = 0; i < HANDSHAKES; i++) {
        assert_int_equal(post_tls(f, NAME, close_port)->fault, TRANSPORT_OK);
        assert_false(f->result.reused);
    }
    assert_int_equal(getrusage(RUSAGE_SELF, &to), 0);
    const long us =
        (to.ru_utime.tv_sec - from.ru_utime.tv_sec + to.ru_stime.tv_sec - from.ru_stime.tv_sec) *
            1000000 +
        to.ru_utime.tv_usec - from.ru_utime.tv_usec + to.ru_stime.tv_usec - from.ru_stime.tv_usec;
    print_message("CPU of one new TLS connection: %ld us\n", us / HANDSHAKES);
    assert_true(us / HANDSHAKES <= 3000);
    fixture_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_trusted_certificate_is_accepted_and_the_connection_kept),
        cmocka_unit_test(test_an_untrusted_certificate_is_refused),
        cmocka_unit_test(test_a_certificate_for_another_name_is_refused),
        cmocka_unit_test(test_tls_below_1_2_is_refused),
        cmocka_unit_test(test_a_hanging_handshake_ends_at_the_connect_timeout),
        cmocka_unit_test(test_a_missing_authority_file_is_our_fault),
        cmocka_unit_test(test_a_new_tls_connection_costs_little_cpu),
    };
    return cmocka_run_group_tests(tests, start_nginx, stop_nginx);
}

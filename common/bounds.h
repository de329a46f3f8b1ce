/* Every maximum that is a decision of the product and not of an operator stands here.
 * Configurable maxima are in config.def. Sources: spec/platform.md (P), practices.md rule (R). */
#ifndef NRW_BOUNDS_H
#define NRW_BOUNDS_H

#define LIMIT_EVENT_BYTES           262144u /* 256 KiB; P2: an envelope, exactly this is accepted    */
#define LIMIT_JSON_DEPTH            2048    /* jansson's JSON_PARSER_MAX_DEPTH              */
#define LIMIT_EVENT_TYPE            128     /* characters of an event name                  */
#define LIMIT_EVENT_PATTERNS        100     /* of one webhook                              */
#define LIMIT_DESCRIPTION           1024    /* characters                                  */
#define LIMIT_URL                   2048    /* P5                                           */
#define LIMIT_HOST                  253     /* RFC 1035                                     */
#define LIMIT_REQUEST_BODY          65536u /* 64 KiB; P5: of a request to the API               */
#define LIMIT_REQUEST_TARGET        4096   /* characters of path and query                      */
#define LIMIT_REQUEST_HEADERS       16384u /* 16 KiB; all lines together                        */
#define LIMIT_REQUEST_HEADERS_N     100
#define LIMIT_ANSWERS_UNREAD        33554432u /* 32 MiB; of all clients of a port together           */
#define LIMIT_SECRET                256 /* the API takes 16-256 bytes, the worker reads 1-256 */
#define LIMIT_SECRET_MIN            16
#define LIMIT_IDEMPOTENCY_KEY       255    /* characters */
#define LIMIT_ATTEMPTS              5      /* P4                                           */
#define LIMIT_RESPONSE_KEPT         4096u  /* 4 KiB; P3, R46: of the body, in the log             */
#define LIMIT_RESPONSE_READ         65536u /* 64 KiB; P3, R46                                      */
#define LIMIT_RESPONSE_HEADERS      32768u /* 32 KiB; R46: read                                    */
#define LIMIT_RESPONSE_HEADERS_KEPT 2048u  /* 2 KiB */
#define LIMIT_ERROR_TEXT            240    /* of an attempt, in the log                    */
#define LIMIT_ADDRESSES             256 /* of one DNS answer: all are handed on to be vetted; more fail it */

#define LIMIT_JWT         8192u /* 8 KiB; R54                                    */
#define LIMIT_JWT_KEYS    16
#define LIMIT_JWT_KID     128
#define LIMIT_JWT_SUBJECT 255 /* OpenID Connect Core section 2 */

#endif

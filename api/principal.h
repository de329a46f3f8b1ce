/* Who asks: what auth.c has found out about the credentials of a request. */
#ifndef NRW_PRINCIPAL_H
#define NRW_PRINCIPAL_H

#include "ids.h"

enum principal_kind { PRINCIPAL_NOBODY, PRINCIPAL_JWT, PRINCIPAL_API_KEY };

struct principal {
    enum principal_kind kind;
    struct uuid tenant_id;
    struct uuid key_id; /* PRINCIPAL_API_KEY */
    unsigned scopes;    /* of enum scope (scopes.h) */
};

#endif

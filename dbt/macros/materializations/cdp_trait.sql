{# A model is a trait: its text is the value of an aggregate, or with no
   aggregate an expression over other traits, or with only a type nothing. The
   view of that name has profile_id (entity account: account_id) and value. #}
{% materialization cdp_trait, adapter='postgres' %}
  {% set object = cdp.cdp_object(['aggregate', 'event', 'filter', 'each', 'within', 'older_than', 'since', 'type',
      'empty', 'timezone', 'options']) %}
  {% set of_account = config.get('entity') == 'account' %}
  {% set text = sql | trim %}
  {% if config.get('aggregate') is not none %}
    {% if text and text | lower != 'null' %}{% do object.update({'value': text}) %}{% endif %}
  {% elif config.get('type') is none %}
    {% do object.update({'expression': text}) %}
  {% endif %}
  {% if model.description %}{% do object.update({'description': model.description}) %}{% endif %}

  {{ run_hooks(pre_hooks, inside_transaction=False) }}
  {{ run_hooks(pre_hooks, inside_transaction=True) }}
  {% do cdp.cdp_apply('account_traits' if of_account else 'traits', this.identifier, object) %}
  {% set target_relation = cdp.cdp_view("select " ~ ("account_id" if of_account else "profile_id") ~ ", traits->"
      ~ dbt.string_literal(this.identifier) ~ " as value from cdp." ~ ("accounts" if of_account else "profiles")) %}
  {{ run_hooks(post_hooks, inside_transaction=True) }}
  {% do adapter.commit() %}
  {{ run_hooks(post_hooks, inside_transaction=False) }}
  {{ return({'relations': [target_relation]}) }}
{% endmaterialization %}
